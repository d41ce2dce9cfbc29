"""Commands that are printed for people to run: they must work as they stand, in any shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "kubetune"
_DEFAULT_HOME = "~/.local/share/kubetune"


def kubetune(home: Path, subcommand: str, *arguments: str | Path) -> str:
    """The command line that calls kubetune on the cluster in ``home``, quoted for a shell."""
    # Another shell may lack the variables that have led here.
    is_default = home.absolute() == Path(_DEFAULT_HOME).expanduser().absolute()
    place = [] if is_default else ["--home", str(home.absolute())]
    return shlex.join([*program(), subcommand, *place, *map(str, arguments)])


def kubectl(home: Path, *arguments: str) -> str:
    """The command line of the kubectl that comes with the cluster in ``home``."""
    return kubetune(home, "kubectl", "--", *arguments)


def program() -> list[str]:
    """How this kubetune is called: by its name only where every shell finds it."""
    scripts = Path(sys.prefix) / "bin"
    found = shutil.which(PROGRAM)
    own = scripts / PROGRAM
    if found is not None and own.exists() and Path(found).resolve() == own.resolve():
        # A virtual environment's folder is on the PATH of the shells that have activated it.
        isolated = sys.prefix != sys.base_prefix
        if not (isolated and Path(found).absolute().is_relative_to(scripts)):
            return [PROGRAM]
    return [str(own)] if own.exists() else [sys.executable, "-m", "kubetune.cli"]
