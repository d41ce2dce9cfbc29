"""Whether what a run has trained outlives the run, and what the status says where it doesn't."""

from __future__ import annotations

from datetime import UTC, datetime

from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import FineTuneJobStatusDict
from kubetune.api.run.plan import TOLD_CHECKPOINT, TOLD_CHECKPOINT_TIME
from kubetune.decide.decision import Conditions, rfc3339
from kubetune.decide.fine_tune_job.progress import told_progress
from kubetune.targets.table import facts_of
from kubetune.tracking.base import TrackedRun

_MOST_STEPS = 2**31 - 1
_LATEST = 2**32
"""Seconds since the epoch; what a run tells beyond either is no step and no time."""


def keeps_steps(settings: JsonObject, target: ComputeTargetSpec) -> bool:
    """Whether an attempt finds the checkpoints of earlier ones.

    A claim keeps them, where the disk of the place doesn't.
    """
    return facts_of(target).durable_disk or "claimName" in (settings.get("checkpoint") or {})


def acting_settings(settings: JsonObject, target: ComputeTargetSpec) -> JsonObject:
    """The settings without those of checkpoints that do nothing on the target."""
    shown = dict(settings)
    if not keeps_steps(settings, target):
        del shown["checkpoint"]
    elif not facts_of(target).mounts_claims:
        checkpoint = settings["checkpoint"]
        shown["checkpoint"] = {key: checkpoint[key] for key in checkpoint if key != "claimName"}
    return shown


def show_checkpoint(status: FineTuneJobStatusDict, run: TrackedRun) -> None:
    """Put the newest checkpoint that the run's newest attempt tells of into its status.

    One that an earlier attempt has written stays as it was told of first.
    """
    told = told_progress(run)
    step, at = told.get(TOLD_CHECKPOINT), told.get(TOLD_CHECKPOINT_TIME)
    attempt = told.get("attempt")
    if step is None or at is None or attempt is None:
        return
    if not (0 <= step <= _MOST_STEPS and 0 <= at < _LATEST and 0 < attempt <= _MOST_STEPS):
        return
    known = status.get("lastCheckpoint")
    if step == 0:
        # The attempt has found nothing to continue from.
        status.pop("lastCheckpoint", None)
    elif known is None or known["step"] != step:
        written = datetime.fromtimestamp(at, UTC)
        status["lastCheckpoint"] = {
            "step": int(step),
            "time": rfc3339(written),
            "attempt": int(attempt),
        }


def tell_kept(
    conditions: Conditions, settings: JsonObject, target: ComputeTargetSpec | None
) -> None:
    """Say whether an interruption costs a run its steps, before it happens."""
    if target is None or not settings:
        return
    facts, claim = facts_of(target), (settings.get("checkpoint") or {}).get("claimName")
    kept, reason = True, Reason.KEPT_ON_TARGET
    message = f"checkpoints stay in {facts.name}, and another attempt continues from the newest"
    if not facts.durable_disk and claim:
        reason = Reason.KEPT_ON_CLAIM
        message = (
            f"checkpoints stay on PersistentVolumeClaim {claim}, and another attempt continues from"
            " the newest"
        )
    elif not facts.durable_disk:
        kept, reason = False, Reason.NO_DURABLE_CLAIM
        message = (
            "the steps of a run are lost when it is suspended, evicted or fails: a job with"
            " spec.checkpoint.claimName keeps them"
        )
    conditions.set(ConditionType.PROGRESS_KEPT, kept, reason, message)


def lost(status: FineTuneJobStatusDict, target: ComputeTargetSpec | None) -> str:
    """What an interruption has cost; empty when nothing."""
    step = (status.get("progress") or {}).get("step")
    if not step or not _loses(status, target):
        return ""
    return (
        f"; the run's {step} {'step is' if step == 1 else 'steps are'} lost:"
        " a job with spec.checkpoint.claimName keeps them"
    )


def _loses(status: FineTuneJobStatusDict, target: ComputeTargetSpec | None) -> bool:
    effective = status.get("effective")
    return target is not None and bool(effective) and not keeps_steps(effective, target)
