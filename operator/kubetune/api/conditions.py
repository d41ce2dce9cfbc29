"""Condition types and reasons, phases and results: the one list of each.

Of a status that was read they are plain strings, which equal the members: compare with `==` and
`in`, never with `is`.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """Types of status.conditions."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    INPUTS_READY = "InputsReady"
    MEMORY_FITS = "MemoryFits"
    SUBMITTED = "Submitted"
    RUNNING = "Running"
    PROGRESS_KEPT = "ProgressKept"
    REGISTERED = "Registered"
    REUSED = "Reused"
    PASSED = "Passed"
    PROMOTED = "Promoted"
    COMPLETE = "Complete"
    FAILED = "Failed"
    TRACKING_AVAILABLE = "TrackingAvailable"
    STORAGE_WRITABLE = "StorageWritable"
    TARGET_AVAILABLE = "TargetAvailable"
    CHECKS_PASSED = "ChecksPassed"
    IN_USE = "InUse"
    DEFAULT = "Default"


class Reason(StrEnum):
    """Reasons of conditions and failures."""

    # Every kind
    INVALID_SPEC = "InvalidSpec"
    READY = "Ready"

    # References
    TARGET_MISSING = "TargetMissing"
    TARGET_NOT_READY = "TargetNotReady"
    SEVERAL_DEFAULTS = "SeveralDefaults"
    MODEL_MISSING = "ModelMissing"
    MODEL_NOT_READY = "ModelNotReady"
    DATASET_MISSING = "DatasetMissing"
    DATASET_NOT_READY = "DatasetNotReady"
    PROMPT_MISSING = "PromptTemplateMissing"
    PROMPT_NOT_READY = "PromptTemplateNotReady"
    PROFILE_MISSING = "TuningProfileMissing"
    SECRET_MISSING = "SecretMissing"
    CLAIM_MISSING = "ClaimMissing"
    SERVICE_ACCOUNT_MISSING = "ServiceAccountMissing"
    CONSENT_MISSING = "ConsentMissing"
    OWN_CODE_REFUSED = "OwnCodeRefused"
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    JOB_MISSING = "FineTuneJobMissing"
    JOB_NOT_COMPLETE = "FineTuneJobNotComplete"
    JOB_WITHOUT_OUTPUT = "FineTuneJobWithoutOutput"
    REGISTRY_PROVIDER_MISMATCH = "RegistryProviderMismatch"
    REGISTERED_MODEL_NOT_SHARED = "RegisteredModelNotShared"
    INPUTS_READY = "InputsReady"
    INPUTS_REFUSED = "InputsRefused"
    MEMORY_FITS = "MemoryFits"
    MEMORY_TOO_SMALL = "MemoryTooSmall"

    # Inspections
    INSPECTING = "Inspecting"
    INSPECTED = "Inspected"
    INSPECTION_FAILED = "InspectionFailed"
    INSPECTION_RETRYING = "InspectionRetrying"
    INLINE_TOO_LARGE = "InlineRowsTooLarge"
    BASE_MODEL_NEEDED = "BaseModelNeeded"
    BASE_MODEL_MISMATCH = "BaseModelMismatch"
    BASE_MODEL_NOT_USED = "BaseModelNotUsed"

    # Checks of rows
    ROWS_CLEAN = "RowsClean"
    ROWS_UNUSABLE = "RowsUnusable"
    PARTS_HIDDEN = "PartsHidden"
    ROWS_DUPLICATED = "RowsDuplicated"
    COLUMN_MISSING = "ColumnMissing"
    ROWS_LEAKED = "RowsLeaked"
    PROMPTS_LEAKED = "PromptsLeaked"

    # Prompt templates
    SLOT_UNKNOWN = "SlotUnknown"
    TEMPLATE_MISSING = "TemplateMissing"
    FORMAT_MISMATCH = "FormatMismatch"

    # Fine-tune jobs
    OUTPUT_MODEL_TAKEN = "OutputModelTaken"
    SUSPENDED = "Suspended"
    SEEKING_IDENTICAL = "SeekingIdentical"
    SEEKING_RESULT = "SeekingResult"
    STARTED = "Started"
    RETRYING = "Retrying"
    REGISTERING = "Registering"
    REGISTERED = "Registered"
    RESULT_MISSING = "ResultMissing"
    REUSED = "Reused"
    SUCCEEDED = "Succeeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    WAITED_TOO_LONG = "WaitedTooLong"
    QUEUED_TOO_LONG = "QueuedTooLong"
    KEPT_ON_CLAIM = "KeptOnClaim"
    KEPT_ON_TARGET = "KeptOnTarget"
    NO_DURABLE_CLAIM = "NoDurableClaim"
    DELETED = "Deleted"

    # What isn't believed
    SIGNATURE_MISSING = "SignatureMissing"
    SIGNATURE_INVALID = "SignatureInvalid"
    NAMESPACE_NOT_TRUSTED = "NamespaceNotTrusted"

    # Evaluations
    TRAINED_ON_ROWS = "TrainedOnRows"
    JUDGE_KEY_REFUSED = "JudgeKeyRefused"
    REGISTRY_WITHOUT_ALIASES = "RegistryWithoutAliases"
    SEEKING_EQUAL = "SeekingEqual"
    DATASET_CHANGED = "DatasetChanged"
    ROWS_DIFFER = "RowsDiffer"
    EVALUATED = "Evaluated"
    CANDIDATE_FAILED = "CandidateFailed"
    THRESHOLDS_MET = "ThresholdsMet"
    THRESHOLDS_MISSED = "ThresholdsMissed"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    NOT_PROMOTED = "NotPromoted"
    NOT_REGISTERED = "NotRegistered"
    ALIAS_MOVED = "AliasMoved"

    # Runs on the target
    QUEUED = "Queued"
    POD_PENDING = "PodPending"
    PLAN_MISSING = "PlanMissing"
    PODS_REFUSED = "PodsRefused"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    STOPPING = "Stopping"
    DISRUPTED = "Disrupted"
    ENDING = "Ending"
    OUT_OF_MEMORY = "OutOfMemory"
    POD_LOST = "PodLost"
    INIT_CONTAINER_FAILED = "InitContainerFailed"
    RUN_LOST = "RunLost"
    RUN_FAILED = "RunFailed"
    TARGET_REFUSED = "TargetRefused"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NAME_TAKEN = "NameTaken"

    # Workspaces of CML
    TARGET_UNREACHABLE = "TargetUnreachable"
    TARGET_THROTTLED = "TargetThrottled"
    TARGET_AVAILABLE = "TargetAvailable"
    CREDENTIALS_INVALID = "CredentialsInvalid"
    PACKAGE_MISSING = "PackageMissing"
    PROJECT_MISSING = "ProjectMissing"
    PROJECT_CREATING = "ProjectCreating"
    RUNTIME_MISSING = "RuntimeMissing"
    PLAN_TOO_LARGE = "PlanTooLarge"
    SUBMISSION_UNKNOWN = "SubmissionUnknown"
    SCHEDULING_TIMED_OUT = "SchedulingTimedOut"
    TIMED_OUT = "TimedOut"
    STATUS_UNKNOWN = "StatusUnknown"
    STOPPED_BY_HAND = "StoppedByHand"
    SOURCE_UNREACHABLE = "SourceUnreachable"

    # Tracking
    TRACKING_AVAILABLE = "TrackingAvailable"
    TRACKING_UNREACHABLE = "TrackingUnreachable"
    TRACKING_CREDENTIALS = "TrackingCredentialsRefused"
    TRACKING_REFUSED = "TrackingRefused"
    ANSWER_REFUSED = "AnswerRefused"
    EGRESS_REFUSED = "EgressRefused"
    STORAGE_WRITABLE = "StorageWritable"
    STORAGE_NOT_WRITABLE = "StorageNotWritable"
    STORAGE_NOT_PROXIED = "StorageNotProxied"

    # Compute targets that are deleted
    RUNS_LEFT = "RunsLeft"


class Phase(StrEnum):
    """status.phase of a FineTuneJob; an Evaluation has some of them."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    STOPPING = "Stopping"
    REGISTERING = "Registering"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class CandidatePhase(StrEnum):
    """status.candidates[].phase of an Evaluation."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class AttemptResult(StrEnum):
    """What has become of an attempt."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PREEMPTED = "Preempted"
    STOPPED = "Stopped"


class InspectionResult(StrEnum):
    """status.inspection.result."""

    FOUND = "found"
    REFUSED = "refused"


TERMINAL_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})
AT_REST = TERMINAL_PHASES | {Phase.SUSPENDED}
"""Phases of an object of which nothing runs."""
