"""Whether and when something is tried or looked at again: by cause, and every pause in seconds.

Whatever a watch tells comes at once; the pauses are for what nothing announces.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kubetune.api.conditions import AttemptResult, Reason
from kubetune.api.kinds.status_types import AttemptCountsDict, AttemptDict
from kubetune.api.run.outcome import OUTCOME_REFUSED, WORKER_LOST, Outcome
from kubetune.decide.decision import parse_time


class Retry(StrEnum):
    """What follows an attempt that failed."""

    NEVER = "none"
    COUNTED = "another after a pause, as far as backoffLimit goes"
    FREE = "another; it doesn't count against backoffLimit"
    BY_MEMORY = "as onOutOfMemory says"
    AS_TOLD = "as the run says: none, or as after a crash"


@dataclass(frozen=True)
class Cause:
    """Why attempts end, with all reasons that tell of it."""

    name: str
    retry: Retry
    reasons: tuple[str, ...]


CAUSES: tuple[Cause, ...] = (
    Cause(
        "plan, settings or rights are at fault",
        Retry.NEVER,
        (
            "PlanInvalid",
            "PlanMissing",
            "PlanVersion",
            "InvalidArguments",
            "TrainerRefused",
            "GpusMissing",
            "StrategyNotRun",
            "CheckpointNotShared",
            "PrecisionUnsupported",
            "PackingUnsupported",
            "MaxLengthTooLarge",
            "DoraUnsupported",
            "BitsandbytesMissing",
            "CacheNotWritable",
            "CompilerMissing",
            "CompilerFails",
            "TargetModulesUnknown",
            "ModulesToSaveUnknown",
            "ModulesNamedTwice",
            "MergeNeedsAdapter",
            "SlotMissing",
            "ScriptInvalid",
            "ScriptMissing",
            "ScriptOutside",
            "AxolotlMissing",
            "ProjectVariableMissing",
            "ExperimentDeleted",
            "TrackingUnsupported",
            OUTCOME_REFUSED,
        ),
    ),
    Cause(
        "data is at fault",
        Retry.NEVER,
        (
            "DatasetChanged",
            "InvalidRows",
            "NoFiles",
            "NoRows",
            "NoTrainableRows",
            "NoUsableRows",
            "RowsTooLong",
            "ColumnMissing",
            "ConfigAmbiguous",
            "SplitAmbiguous",
            "SplitNotFound",
            "FormatUnsupported",
            "PartsHidden",
            "ChatTemplateMissing",
            "ChatTemplateUnsupported",
            "HttpRefused",
            "HttpTooLarge",
            "HubNotFound",
            "HubRefused",
        ),
    ),
    Cause(
        "the model is at fault, or training has spoilt it",
        Retry.NEVER,
        (
            "AdapterAsBase",
            "AdapterMismatch",
            "AdapterUnfit",
            "AdapterUnreadable",
            "AdapterUnsupported",
            "BaseModelMismatch",
            "BaseModelMissing",
            "BaseModelUnexpected",
            "MergeDiffers",
            "MergeFails",
            "ModelFails",
            "ModelFilesChanged",
            "ModelFilesInvalid",
            "ModelFilesMissing",
            "ModelMissing",
            "ModelNotCausal",
            "ModelNotFound",
            "ModelQuantized",
            "ModelUnreadable",
            "ModelUnrecognized",
            "NoModel",
            "ResultUnreadable",
            "PadTokenMissing",
            "PadTokenUnknown",
            "TokenBeyondVocabulary",
            "TokenizerMissing",
            "TokenizerUnreadable",
            "LossNotFinite",
        ),
    ),
    Cause("somebody stopped it", Retry.NEVER, (Reason.STOPPED_BY_HAND,)),
    Cause(
        "something that it needs is away",
        Retry.COUNTED,
        (
            "HubAccessDenied",
            "HubThrottled",
            "HubUnreachable",
            "HttpTooSlow",
            "DiskFull",
            "HttpUnreachable",
            "RegistryUnavailable",
            "RegistryUnreachable",
            "ResultUnreachable",
            "TrackingUnavailable",
            Reason.SCHEDULING_TIMED_OUT,
        ),
    ),
    Cause("its node is at fault", Retry.COUNTED, ("GpuMissing", "DriverTooOld")),
    Cause("it hung", Retry.COUNTED, ("NoProgress",)),
    Cause(
        "it crashed, or was lost",
        Retry.COUNTED,
        (
            "UnexpectedError",
            "ScriptKilled",
            "WorkersMissing",
            WORKER_LOST,
            Reason.RUN_FAILED,
            Reason.RUN_LOST,
            Reason.POD_LOST,
            Reason.INIT_CONTAINER_FAILED,
            Reason.DEADLINE_EXCEEDED,
            Reason.TIMED_OUT,
        ),
    ),
    Cause("it had too little memory", Retry.BY_MEMORY, (Reason.OUT_OF_MEMORY,)),
    Cause("it was evicted", Retry.FREE, (Reason.DISRUPTED, "Interrupted")),
    Cause(
        "only the run knows",
        Retry.AS_TOLD,
        ("ScriptFailed", "RunnerMissing", "RegistryNotFound", "UploadFailed", "WorkersUnavailable"),
    ),
)
"""The one table: a reason that isn't in it, as of a node or of other code, is as the run says."""
_RETRIES = {str(reason): cause.retry for cause in CAUSES for reason in cause.reasons}

BACKOFF_LIMIT = 3
"""Attempts that may fail before a FineTuneJob does, where nobody says otherwise."""
MAX_PREEMPTED = 50
"""Evictions that are nobody's fault; more tell that the place is none for this run."""

TRACKER_SECONDS = 10.0
"""A tracker that was asked, or that didn't answer."""
PROBE_SECONDS = 10.0
"""A target that isn't Ready."""
ELSEWHERE_SECONDS = 15.0
"""Another Evaluation that is measuring the same."""
CONFIG_MAP_SECONDS = 15.0
"""A key that a ConfigMap doesn't have: which keys it has isn't watched."""
RIVAL_SECONDS = 30.0
"""Another object that has the name of the output."""
REFUSED_STOP_SECONDS = 30.0
"""A stop or a deletion that a target refused."""
TARGET_SECONDS = 60.0
"""A target that is away; its backend tells when it answers again, if it can."""
INSPECTION_FIRST_SECONDS = 5
NOT_WATCHED = (
    Reason.SECRET_MISSING,
    Reason.CLAIM_MISSING,
    Reason.SERVICE_ACCOUNT_MISSING,
    Reason.CONSENT_MISSING,
)
"""What is read by name when it is needed: see ``until_secret``."""


def retry_of(reason: str, outcome: Outcome | None) -> Retry:
    """What follows a failed attempt; ``outcome`` is what the run itself has left, if anything."""
    found = _RETRIES.get(reason, Retry.AS_TOLD)
    if found != Retry.AS_TOLD:
        return found
    told = outcome is not None and outcome.status == "failed" and not outcome.retryable
    return Retry.NEVER if told else Retry.COUNTED


def next_look(reason: Reason) -> float:
    """Seconds until a target that isn't Ready is asked again, by what it lacks."""
    refused = reason in (Reason.ANSWER_REFUSED, Reason.EGRESS_REFUSED)
    return TARGET_SECONDS if refused else PROBE_SECONDS


def after_attempt(
    newest: AttemptDict, counts: AttemptCountsDict, first: float, now: datetime, *, free: int = 0
) -> float:
    """Seconds until the next attempt: ``first``, twice as many ... 360 after failures, and after
    all evictions but the first.

    ``newest`` is the attempt that ended, ``counts`` are all of its kind, as in status; ``free`` of
    the failures are nothing to wait longer for.
    """
    failed = max(counts["failed"] - free, 1)
    if newest["result"] == AttemptResult.PREEMPTED:
        failed = counts["preempted"] - 1
        if failed < 1:
            return 0
    ended = parse_time(newest.get("endTime")) or now
    return _doubled(first, failed, 360) - (now - ended).total_seconds()


def after_inspection(attempts: int) -> float:
    """Seconds between the end of the n-th failed try of an inspection and the next: 5 ... 300."""
    return _doubled(INSPECTION_FIRST_SECONDS, max(attempts, 1), 300)


def after_refusal(since: datetime | None, now: datetime) -> float:
    """Seconds until what the cluster refuses is tried again: 10 at first, then growing to 120."""
    return _with_age(10.0, since, now, 120.0)


def until_secret(since: datetime | None, now: datetime) -> float:
    """Seconds until a Secret or its like is read again: 2 at first, then growing to 25.

    They are read, not watched, so that the operator needs no right to list them.
    """
    return _with_age(2.0, since, now, 25.0)


def _doubled(first: float, number: int, longest: float) -> float:
    return min(first * 2 ** (number - 1), longest)


def _with_age(first: float, since: datetime | None, now: datetime, longest: float) -> float:
    """A quarter of how long it has lasted, within limits."""
    age = (now - since).total_seconds() if since else 0.0
    return min(max(first, age / 4), longest)
