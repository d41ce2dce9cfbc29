"""The user's script: found, checked and put where it is started from."""

from __future__ import annotations

import sys
from pathlib import Path

from kubetune.api.run.plan import in_container
from kubetune.api.run.training_plan import ScriptPlan

from kubetune_runner.errors import RunError


def fetch(plan: ScriptPlan, folder: Path) -> list[str]:
    """The command that runs the script; a text is written into ``folder``.

    Raises RunError ScriptMissing, ScriptOutside, ScriptInvalid.
    """
    if plan.text is not None:
        # A key may be called anything; Python wants no name in particular.
        path = folder / plan.name
        path.write_text(plan.text, encoding="utf-8")
    else:
        path = _existing(plan)
    _check(path, plan.name)
    return [sys.executable, str(path), *plan.args]


def _existing(plan: ScriptPlan) -> Path:
    path = in_container(plan.path or "")
    # A link may lead anywhere.
    real, root = path.resolve(), in_container(plan.root or "/").resolve()
    if not real.is_relative_to(root):
        raise RunError(
            "ScriptOutside",
            f"trainer.script.path {plan.path} leads out of {plan.root}: name a file below it",
        )
    if not real.is_file():
        raise RunError(
            "ScriptMissing",
            f"trainer.script.path: there is no file {plan.path}: put the script there, or correct"
            " the path",
        )
    return path


def _check(path: Path, name: str) -> None:
    """Find mistakes of the syntax before anything is read or downloaded."""
    try:
        compile(path.read_bytes(), name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RunError(
            "ScriptInvalid",
            f"the script {name} can't be run{line}: {type(error).__name__}: {text}",
        ) from error
