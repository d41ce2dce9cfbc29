"""Run a script the way a notebook kernel does, in the process of a job run.

    python launcher.py SCRIPT FINISHED

There is no ``__file__``, the arguments are those of the kernel, an event loop is running, and
every SystemExit is a failure, also one with code 0. The file FINISHED is made when the script
came to its end, so that a kernel that dies quietly does not count as success.
"""

import asyncio
import sys
import traceback
from pathlib import Path
from types import ModuleType


def main() -> int:
    """Run the script; the exit code tells whether it went through."""
    script, finished = sys.argv[1:]
    source = Path(script).read_text(encoding="utf-8")
    sys.argv = [script, "-f", "connection.json"]
    # The kernel's folder of programs is not importable; the project's top folder is.
    sys.path[0] = ""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    code = compile(source, script, "exec", dont_inherit=True)

    async def cell() -> None:
        exec(code, module.__dict__)  # noqa: S102 (what a kernel is for)

    try:
        asyncio.run(cell())
    except SystemExit as end:
        print(f"An exception has occurred: SystemExit: {end.code}", file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    Path(finished).touch()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
