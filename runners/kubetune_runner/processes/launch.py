"""Becomes another program that dies with the run: ``python launch.py PID COMMAND...``.

The program has a process group of its own, so nothing else would end it when the run is killed.
Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Ask the kernel for a signal at the parent's end, then execute the command."""
    # Where there is no Linux the program just outlives a killed run.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - it is what this is for


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
