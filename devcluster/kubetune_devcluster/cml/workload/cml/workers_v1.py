"""The workers API inside a workload: engines that end with the one that launched them.

As the documentation has it, and as strict as it allows: a worker gets the project's variables and
those it is given, not the job's; ``await_workers`` counts who isn't done in time as failed.
"""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).parents[2] / "server" / "launcher.py"
JOB_VARIABLES = "CML_SIMULATOR_JOB_VARIABLES"
"""Names of what the job gave to its run."""

_engines: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}


def launch_workers(
    n: int,
    cpu: float,
    memory: float,
    nvidia_gpu: int = 0,
    kernel: str = "python3",
    script: str = "",
    code: str = "",
    env: dict[str, str] | None = None,
    accelerator_label_id: int | None = None,
) -> list[dict[str, Any]]:
    """Start engines with the script."""
    if not script or cpu <= 0 or memory <= 0:
        raise ValueError("a worker needs a script, cpu and memory")
    own = (os.environ.get(JOB_VARIABLES) or "").split(",")
    project = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith("KUBETUNE_")
    }
    launched: list[dict[str, Any]] = []
    for _ in range(n):
        engine = uuid.uuid4().hex[:16]
        finished = Path(os.environ["CML_SIMULATOR_STORE"]) / f"worker-{engine}"
        given = {
            "CDSW_ENGINE_ID": engine,
            "CDSW_ENGINE_TYPE": "worker",
            "CDSW_MASTER_ID": os.environ["CDSW_ENGINE_ID"],
        }
        # In the process group of the run, which the simulator kills at the run's end.
        process = subprocess.Popen(
            [sys.executable, str(LAUNCHER), script, str(finished)],
            env={**project, **given, **(env or {})},
            stdin=subprocess.DEVNULL,
        )
        _engines[engine] = (process, finished)
        launched.append({"id": engine, "status": "running"})
    return launched


def list_workers() -> list[dict[str, Any]]:
    """All engines that were launched here."""
    return [_shown(engine) for engine in _engines]


def await_workers(
    ids: list[str], wait_for_completion: bool = True, timeout_seconds: float = 60
) -> dict[str, list[dict[str, Any]]]:
    """Wait for engines; those that failed, or aren't done in time, are failures. 0: no limit."""
    end = time.monotonic() + timeout_seconds if timeout_seconds else None
    for engine in ids:
        while wait_for_completion and _engines[engine][0].poll() is None:
            if end is not None and time.monotonic() >= end:
                break
            time.sleep(0.05)
    shown = [_shown(engine) for engine in ids]
    wanted = ("succeeded",) if wait_for_completion else ("succeeded", "running")
    return {
        "workers": [engine for engine in shown if engine["status"] in wanted],
        "failures": [engine for engine in shown if engine["status"] not in wanted],
    }


def stop_workers(*ids: str) -> None:
    """End engines."""
    for engine in ids or tuple(_engines):
        _engines[engine][0].kill()


def _shown(engine: str) -> dict[str, Any]:
    process, finished = _engines[engine]
    if process.poll() is None:
        return {"id": engine, "status": "running"}
    ended = process.returncode == 0 and finished.is_file()
    return {"id": engine, "status": "succeeded" if ended else "failed"}
