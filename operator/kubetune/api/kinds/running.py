"""Status of what runs: attempts, their time, where they are. Bounded."""

from __future__ import annotations

from pydantic import Field

from kubetune.api.conditions import AttemptResult
from kubetune.api.kinds.compute_target.recorded import RecordedTarget
from kubetune.api.kinds.status import MAX_LOG_BYTES, Timestamp
from kubetune.api.schema.base import Value

MAX_ATTEMPTS = 10


class Attempt(Value):
    """One try."""

    number: int = Field(description="1 for the first.")
    job: str = Field(description="Name of the Job; on CML the id of the run.")
    start_time: Timestamp | None = Field(
        default=None, description="When it began to run; absent while it waits."
    )
    end_time: Timestamp | None = Field(default=None, description="When it ended.")
    result: AttemptResult = Field(description="Running, Succeeded, Failed, Preempted or Stopped.")
    exit_code: int | None = Field(default=None, description="Exit code of the runner.")
    per_device_batch_size: int | None = Field(
        default=None,
        description="With onOutOfMemory HalveBatch: what the attempt trained with, where it isn't"
        " what is declared.",
    )
    gradient_accumulation_steps: int | None = Field(
        default=None, description="The same; both multiplied are always what is declared."
    )
    reason: str | None = Field(default=None, description="CamelCase reason of its end.")
    message: str | None = Field(default=None, max_length=1024, description="Why, in a sentence.")
    log: str | None = Field(
        default=None,
        max_length=MAX_LOG_BYTES,
        description="Last lines that it has printed, of the newest attempt that failed.",
    )


class AttemptCounts(Value):
    """All attempts, also those no longer listed."""

    total: int = Field(default=0, description="Attempts made.")
    failed: int = Field(
        default=0,
        description="Attempts that failed; they count against backoffLimit, except for those after"
        " which the batch was halved.",
    )
    preempted: int = Field(default=0, description="Attempts that were evicted; they don't count.")


class RunTime(Value):
    """How long runs were under way, as far as they are over."""

    seconds: int = Field(description="Seconds that count against activeDeadlineSeconds.")
    counted_until: Timestamp = Field(description="End of the last run that is counted.")


class WaitTime(Value):
    """How long an object has waited, all stretches together."""

    seconds: int = Field(description="Seconds of the stretches that are over.")
    since: Timestamp | None = Field(
        default=None, description="When the present stretch began; absent while it doesn't wait."
    )


WAIT_TIME = "How long inputs or the target were waited for; see spec.waitingDeadlineSeconds."
QUEUE_TIME = "How long submitted runs waited to begin; see spec.queueDeadlineSeconds."


class External(RecordedTarget):
    """The run outside, and where it was started: there it is followed, stopped and deleted."""

    workspace: str | None = Field(default=None, description="Address of the CML workspace.")
    job_id: str | None = Field(
        default=None, description="Namespace/name of the newest Job; on CML project/id of the job."
    )
    run_id: str | None = Field(default=None, description="On CML the id of the newest run.")
    project_id: str | None = Field(default=None, description="On CML the id of the project.")
    url: str | None = Field(default=None, description="On CML the page of the job.")


class MlflowRun(Value):
    """The run in MLflow."""

    experiment_id: str | None = Field(default=None, description="Experiment id.")
    run_id: str | None = Field(default=None, description="Run id.")
    url: str | None = Field(default=None, description="Page of the run.")


class RegisteredResult(Value):
    """The registered version."""

    name: str = Field(description="Registered model.")
    version: int = Field(description="Version number.")
    alias: str | None = Field(default=None, description="Alias that points to it.")
