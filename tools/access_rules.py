"""Rules of ClusterRoles on our kinds as YAML, and files that hold what was rendered."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from kubetune.api import GROUP

INSTALL = Path(__file__).parents[1] / "manifests" / "install"


def rule(resources: Iterable[str], verbs: Iterable[str], why: str = "") -> str:
    """An item of ``rules``; ``why`` is a comment before it."""
    named = list(resources)
    listed = "".join(f"\n      - {name}" for name in named) if len(named) > 1 else f" [{named[0]}]"
    comment = f"  # {why}\n" if why else ""
    return (
        f"{comment}  - apiGroups: [{GROUP}]\n    resources:{listed}\n"
        f"    verbs: [{', '.join(verbs)}]\n"
    )


def bring_up_to_date(file: Path, wanted: str) -> int:
    """Write the file where it differs, or with --check only say so; the exit status."""
    if file.exists() and file.read_text() == wanted:
        return 0
    if "--check" in sys.argv:
        print(f"out of date: {file.name}; run `make generate`", file=sys.stderr)
        return 1
    file.write_text(wanted)
    return 0
