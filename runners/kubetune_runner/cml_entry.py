"""Script of kubetune's jobs on Cloudera Machine Learning: finds the runner and starts it.

It may be executed inside a notebook's kernel: ``__file__`` may be missing, ``sys.argv`` isn't
ours, and any SystemExit counts as a failure. So it never exits, and it raises when the run
failed. Until the runner is found it uses the standard library alone, of any Python 3.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

OLDEST_PYTHON = (3, 11)
FOLDER = ".kubetune"
PACKAGES = (
    "use a runtime image with the runner's packages, or run pip install 'kubetune[runner]' in a"
    " session of the project"
)


class RunFailedError(Exception):
    """How a run tells CML that it failed."""


class NotStartedError(Exception):
    """The runner can't be started; reason and message are those of an outcome."""

    def __init__(self, reason: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message[:1024]
        self.retryable = retryable


def main() -> None:
    """Run, and raise RunFailedError unless the run succeeded."""
    project = Path.cwd()
    if not os.environ.get("KUBETUNE_RUN_KEY"):
        raise RunFailedError(
            "PlanMissing: KUBETUNE_RUN_KEY isn't set: kubetune's operator starts this script;"
            " apply a FineTuneJob"
        )
    try:
        outcome = start(project)
    except NotStartedError as error:
        leave_outcome(project, error)
        raise RunFailedError(f"{error.reason}: {error.message}") from error.__cause__
    if outcome.status != "succeeded":
        raise RunFailedError(f"{outcome.reason}: {outcome.message}")
    print(f"kubetune: {outcome.reason} {outcome.message}".rstrip())


def start(project: Path) -> Any:
    """Find the runner and run it; returns the outcome."""
    try:
        if sys.version_info < OLDEST_PYTHON:
            raise NotStartedError(
                "RunnerMissing",
                f"this runtime has Python {sys.version.split()[0]}, the runner needs 3.11 or"
                " later: choose another runtime in the compute target",
            )
        runner = runner_folder(project)
        if runner is not None:
            # A kernel looks in the project first, where a file may have the name of a library.
            others = [entry for entry in sys.path if entry not in ("", str(project))]
            sys.path[:] = [*runner, *others]
            importlib.invalidate_caches()
        from kubetune_runner.cml.project import main as run
    except ImportError as error:
        raise missing(error) from error
    except NotStartedError:
        raise
    except BaseException as error:
        raise unexpected(error) from error
    try:
        return run()
    # What the runner itself doesn't turn into an outcome: a full disk, mostly.
    except BaseException as error:
        raise unexpected(error) from error


def runner_folder(project: Path) -> list[str] | None:
    """What sys.path needs: the uploaded runner, or a checkout; None: it is installed."""
    named = os.environ.get("KUBETUNE_RUNNER_ARCHIVE")
    if named:
        return [str(extracted(project / named, os.environ.get("KUBETUNE_RUNNER_SHA256", "")))]
    # Only a plain interpreter says where this script is; a kernel runs in the project.
    script = globals().get("__file__")
    places = [Path(script).resolve().parent.parent] if script else []
    for place in [*places, project, project / "runners"]:
        if (place / "kubetune_runner" / "cml" / "project.py").is_file():
            # In a checkout the API is next to it, in operator/.
            return [str(place), str(place.parent / "operator")]
    return None


def extracted(archive: Path, sha256: str) -> Path:
    """A folder of this run's own with the archive's content, if that is what came with the job.

    Whoever runs code in the project can write its files, an unpacked runner among them.
    """
    again = "the operator uploads it again for the next attempt"
    try:
        content = archive.read_bytes()
    except FileNotFoundError as error:
        raise NotStartedError(
            "RunnerMissing", f"the project has no {archive.name} in {FOLDER}: {again}", True
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise NotStartedError(
            "RunnerMissing",
            f"{FOLDER}/{archive.name} isn't what was uploaded: something in the project has"
            f" written it; {again}",
            retryable=True,
        )
    folder = Path(tempfile.mkdtemp(prefix="kubetune-runner-"))
    atexit.register(shutil.rmtree, str(folder), ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        files.extractall(folder)
    return folder


def missing(error: ImportError) -> NotStartedError:
    """What the user is told about a module that can't be imported."""
    name = (error.name or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and name in ("kubetune", "kubetune_runner"):
        return NotStartedError(
            "RunnerMissing",
            f"the module {name} is neither in the project nor in the runtime: leave"
            " spec.cml.runner out of the compute target, so that the operator uploads it, or run"
            " pip install 'kubetune[runner]' in a session of the project",
        )
    return NotStartedError("RunnerMissing", f"{error}; {PACKAGES}")


def unexpected(error: BaseException) -> NotStartedError:
    """An outcome for what shouldn't happen."""
    text = (str(error).splitlines() or [""])[0][:300]
    return NotStartedError(
        "UnexpectedError",
        f"{type(error).__name__}: {text}; the run's log has the traceback",
        retryable=True,
    )


def leave_outcome(project: Path, error: NotStartedError) -> None:
    """Write the outcome where the operator reads it."""
    attempt = os.environ.get("KUBETUNE_ATTEMPT") or "1"
    worker = os.environ.get("KUBETUNE_WORKER") or "0"
    own = "" if worker == "0" else f"-worker-{worker}"
    folder = project / FOLDER / "runs" / os.environ["KUBETUNE_RUN_KEY"]
    document = {
        "status": "failed",
        "reason": error.reason,
        "message": error.message,
        "retryable": error.retryable,
        "summary": {},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, ensure_ascii=False)
        (folder / f"outcome-{attempt}{own}.json").write_text(text, encoding="utf-8")
    except OSError as problem:
        print(f"kubetune: the outcome can't be written: {problem}")


# Not when a test imports this file; a kernel may call its main module anything.
if __name__ != "kubetune_runner.cml_entry":
    main()
