"""Whether this place has what runs need: writable folders, a GPU's driver, a C compiler, packages.

``require`` asks at the start of a run for what that run needs, in less than a second;
``python -m kubetune_runner doctor`` asks for everything and names all that is missing (``report``).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.plan import RunPlan

from kubetune_runner.doctor import caches, compiler, gpus
from kubetune_runner.errors import RunError

log = logging.getLogger(__name__)


def require(plan: RunPlan | EvaluationRunPlan) -> None:
    """Check what this run needs of the place where it runs.

    Raises RunError CacheNotWritable, GpuMissing, DriverTooOld, CompilerMissing, CompilerFails.
    """
    _require_folder("TMPDIR", caches.temporary())
    if _from_hub(plan):
        _require_cache()
    found = gpus.ask()
    if found is None:
        return
    if problem := found.problem():
        raise problem
    if not found.used:
        return
    for variable in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        _require_folder(variable, caches.folder(variable))
    # What an evaluation and most code of users run on a GPU is in torch's own libraries.
    if not isinstance(plan, RunPlan):
        return
    try:
        compiler.attempt(caches.folder("TRITON_CACHE_DIR"))
    except RunError as error:
        if plan.training.script is None and plan.training.axolotl is None:
            raise
        log.warning("%s; the code may need none", error)


def _from_hub(plan: RunPlan | EvaluationRunPlan) -> bool:
    models = (plan.model, plan.model.base)
    return bool(plan.dataset.hub) or any(model and model.hub for model in models)


def _require_cache() -> None:
    """What was downloaded before can be read from a volume that nobody may write to."""
    home = caches.folder(caches.DOWNLOADED)
    problem = caches.unwritable(home)
    if problem and (home / "hub").is_dir():
        log.warning("HF_HOME %s can't be written (%s): only what is in it is read", home, problem)
    elif problem:
        raise _not_writable(caches.DOWNLOADED, home, problem)


def _require_folder(variable: str, folder: Path) -> None:
    if problem := caches.unwritable(folder):
        raise _not_writable(variable, folder, problem)


def _not_writable(variable: str, folder: Path, problem: str) -> RunError:
    return RunError(
        "CacheNotWritable",
        f"{variable} is {folder}, which user {os.getuid()} can't write to ({problem}): mount a"
        f" volume there that this user may write to, or set {variable} to another folder",
    )
