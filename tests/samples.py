"""The sample model in its test size, made once for all tests of a process, and tickets."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kubetune_runner.sample.tickets import write_tickets


def put_sample(folder: Path, rows: int) -> None:
    """Put the model and so many rows where a run finds them: model/ and tickets.jsonl."""
    shutil.copytree(_model(), folder / "model")
    write_tickets(folder / "tickets.jsonl", rows)


@functools.cache
def _model() -> Path:
    """Where the model is; a process of its own makes it, as torch takes much memory."""
    folder = Path(tempfile.mkdtemp(prefix="kubetune-sample-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, "-m", "kubetune_runner.sample", "model", folder / "model"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--size", "test"], check=True, env=environment)
    return folder / "model"
