"""Runs a user's metric over rows, in a process of its own: ``python user_metric_child.py FOLDER``.

The folder holds metric.py and rows.jsonl. Each line of the output is JSON: {} when the function is
there, then {"value": number} for each row; {"error": text} ends it. Standard library only, so
that nothing of the runner is in the function's way.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = "metric.py"
FUNCTION = "metric"
MAX_TEXT = 160


class UnfitError(Exception):
    """What the user's code is or returns doesn't do."""


def main(folder: Path) -> None:
    """Call the function for each row."""
    # What the metric prints must not get between the results.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as results:
        os.dup2(2, 1)

        def say(**document: Any) -> None:
            results.write(json.dumps(document) + "\n")
            results.flush()

        try:
            function = load((folder / FILE).read_text(encoding="utf-8"))
            say()
            with (folder / "rows.jsonl").open(encoding="utf-8") as rows:
                for line in rows:
                    say(value=number(function(**json.loads(line))))
        # Also what isn't an Exception, such as SystemExit.
        except BaseException as error:
            traceback.print_exc()
            say(error=described(error))
    # Threads that the code left running don't keep the process.
    os._exit(0)


def load(source: str) -> Any:
    """The function that the text defines."""
    module = ModuleType("user_metric")
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module
    exec(compile(source, FILE, "exec"), module.__dict__)  # noqa: S102 - it is what this is for
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        raise UnfitError(f"the text defines no function {FUNCTION}(prediction, reference, row)")
    return function


def number(value: Any) -> float:
    """What the function returned, as a finite number."""
    if isinstance(value, (str, bytes)) or value is None:
        raise UnfitError(f"it returned {type(value).__name__}, not a number")
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnfitError(f"it returned {type(value).__name__}, not a number") from None
    if result - result != 0:
        raise UnfitError(f"it returned {result}, not a finite number")
    return result


def described(error: BaseException) -> str:
    """The error in a line, with the line of the user's text."""
    text = " ".join(str(error).split())
    if isinstance(error, UnfitError):
        return text
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == FILE]  # fmt: skip
    place = f" in line {lines[-1]}" if lines else ""
    return f"it raised {type(error).__name__}{place}: {text}"[:MAX_TEXT].rstrip(": ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
