"""Whether a job fits into memory, reported before it is submitted."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.api.kinds.status_types import FineTuneJobStatusDict
from kubetune.decide.decision import Conditions
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.memory.estimate import estimate, misfit
from kubetune.decide.memory.peak import on_gpu
from kubetune.decide.settings.workers import processes_of
from kubetune.decide.waiting import NotReady


def check_memory(
    observed: ObservedJob,
    settings: JsonObject,
    status: FineTuneJobStatusDict,
    conditions: Conditions,
) -> NotReady | None:
    """Write status.estimate and MemoryFits; NotReady where too large a job is refused."""
    spec, model, dataset = observed.job.spec, observed.model, observed.dataset
    if spec is None or model is None or dataset is None:
        return None
    given = (model.status, dataset.status, settings, spec.objective)
    templated = spec.prompt_ref is not None
    # The formulas are about trl's training.
    by_trl = not (settings.get("trainer") or {}).keys() - {"trl"}
    found = estimate(*given, templated=templated) if by_trl else None
    status.pop("estimate", None)
    if found is not None:
        status["estimate"] = found
    # What the user says now counts, also for a job that was tried with older settings.
    own = spec.estimate.when_too_large if spec.estimate else None
    policy = own or (settings.get("estimate") or {}).get("whenTooLarge")
    limit = _limit(settings)
    if policy == "Ignore" or found is None or "peakMemory" not in found:
        conditions.remove(ConditionType.MEMORY_FITS)
        return None
    problem = misfit(*given, templated=templated)
    if limit is None and not problem:
        conditions.remove(ConditionType.MEMORY_FITS)
        return None
    if not problem:
        peak = found["peakMemory"]["total"]
        processes = 1 if on_gpu(settings) else processes_of(settings["resources"])
        each = f", for each of {processes} processes," if processes > 1 else ""
        message = f"training needs about {peak}{each} of {limit}"
        conditions.set(ConditionType.MEMORY_FITS, True, Reason.MEMORY_FITS, message)
        return None
    conditions.set(ConditionType.MEMORY_FITS, False, Reason.MEMORY_TOO_SMALL, problem)
    if policy != "Refuse":
        return None
    return NotReady(
        Phase.PENDING,
        Reason.MEMORY_TOO_SMALL,
        f"{problem}, or set estimate.whenTooLarge: Warn",
        refused=True,
    )


def _limit(settings: JsonObject) -> str | None:
    """The memory that the estimate is compared with, where it is known."""
    resources = settings["resources"]
    return resources.get("gpuMemory") if resources.get("gpu") else resources.get("memory")
