"""A runner that code of users can't look into while it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
import ctypes, os, sys
from contextlib import nullcontext
from kubetune_runner.surroundings import PR_SET_DUMPABLE, kept_out

if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)
# As after the start of a program, which a change of user undoes.
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
with kept_out() if sys.argv[1] == "kept out" else nullcontext():
    child = os.fork()
    if child == 0:
        try:
            open(f"/proc/{os.getppid()}/environ", "rb").read()
        except PermissionError:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
# Whole again: tools that look into processes work before and after.
assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is the kernel of Linux that keeps it out")
@pytest.mark.parametrize(("how", "code"), [("kept out", 1), ("as it was", 0)])
def test_code_reads_no_environment_of_the_runner(how: str, code: int) -> None:
    assert subprocess.run([sys.executable, "-c", LOOK, how]).returncode == code
