"""What is said to a target and by it: values that rules, loop and all targets share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import ComputeTargetStatusDict, ExternalDict
from kubetune.api.run.outcome import Outcome, last_lines
from kubetune.api.run.plan import BatchPlan
from kubetune.api.schema.base import SecretKeyRef
from kubetune.api.training.settings import Resources

Purpose = Literal["train", "inspect", "evaluate"]
RunPhase = Literal["pending", "running", "stopping", "succeeded", "failed", "preempted", "stopped"]
FINISHED: frozenset[RunPhase] = frozenset({"succeeded", "failed", "preempted", "stopped"})


KILLED_EXIT_CODE = 137
"""Of a container that the system has killed, for the main memory that it used."""


@dataclass(frozen=True)
class Owner:
    """The kubetune object that a run belongs to."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class RunAddress:
    """Which runs are meant, and where they are."""

    owner: Owner
    run_key: str
    target: ComputeTargetSpec | None
    """The target that was submitted to; None when it is gone."""
    settled: bool = False
    """The runs were seen to end, so none can be on its way."""
    running: tuple[str, ...] = ()
    """Names of the attempts that were seen last to run: none counts as gone by silence alone."""
    job_id: str | None = None
    """The target's id of the job that has them, where it was written down."""
    kept: bool = False
    """The runs are to continue when their owner is deleted."""


@dataclass(frozen=True)
class Made:
    """A run key's part of a target outside of the cluster, by what it says of itself."""

    owner: Owner
    run_key: str
    kept: bool
    """It is to stay when its owner is gone."""


@dataclass(frozen=True)
class RunRequest:
    """Everything a backend needs to start one attempt."""

    owner: Owner
    run_key: str
    attempt: int
    purpose: Purpose
    plan: dict[str, Any]
    """RunPlan, InspectionPlan or EvaluationRunPlan as JSON; the same for all attempts."""
    target: ComputeTargetSpec
    resources: Resources
    """Resolved: cpu, memory and gpu are set. Each worker gets them."""
    batch: BatchPlan | None = None
    """Of an attempt that trains with another batch than the plan says."""
    kept: bool = False
    """It is to continue when its owner is deleted."""
    workers: int = 1
    """Pods, or engines, that train together."""
    processes: int = 1
    """Processes in each of them."""
    deadline_seconds: int | None = None
    """How long it may run: what is left of the owner's activeDeadlineSeconds."""
    inline_rows: list[dict[str, Any]] | None = None
    dataset_claim: str | None = None
    """PersistentVolumeClaim mounted read-only at plan.DATASET_DIRECTORY."""
    dataset_config_map: tuple[str, str] | None = None
    """ConfigMap and key, mounted at plan.DATASET_DIRECTORY as the file named by the key."""
    model_claim: str | None = None
    """Mounted read-only at plan.MODEL_DIRECTORY."""
    base_model_claim: str | None = None
    """Mounted read-only at plan.BASE_MODEL_DIRECTORY."""
    checkpoint_claim: str | None = None
    """Mounted at plan.CHECKPOINT_DIRECTORY."""
    tokens: dict[str, SecretKeyRef] = field(default_factory=dict[str, SecretKeyRef])
    """Environment variable (plan.ENV_*_TOKEN) -> Secret key in the owner's namespace."""

    @property
    def inline_rows_text(self) -> str | None:
        """The rows as the file plan.INLINE_ROWS_FILE: JSON lines."""
        if self.inline_rows is None:
            return None
        return rows_file(self.inline_rows)


def rows_file(rows: list[dict[str, Any]]) -> str:
    """Inline rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass(frozen=True)
class RunState:
    """One attempt as the target shows it."""

    attempt: int
    name: str
    """The target's own id or name of the attempt."""
    phase: RunPhase
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    reason: str = ""
    """CamelCase: why it waits, or how it ended when there is no outcome."""
    message: str = ""
    """A sentence for the user."""
    log: str = ""
    """The end of what a run without an outcome has printed, where the target tells it."""
    lacks_pods: bool = False
    """Kubernetes has made none of its pods yet, or not all, and may be refused to."""
    waiting_since: datetime | None = None
    """When a queue has sent it back, where the target tells."""
    limited: bool = False
    """The target ends it by itself, since ``ensure`` or ``limit`` said when."""
    lacks_plan: bool = False
    """What it was given is gone, and must be made again before it can start."""
    look_again_seconds: float | None = None
    """Nothing tells of what comes next, so it must be asked for."""
    stray: bool = False
    """It continues without anything that would end it, and must be stopped by StopStrays."""
    foreign: bool = False
    """It belongs to a Job that isn't its owner's (any more), or is gone."""
    overdue: bool = False
    """It waits longer than its target allows and must be stopped."""
    external: ExternalDict = field(default_factory=ExternalDict)
    """Fields of status.external: jobId and what else the target knows."""

    @property
    def last_lines(self) -> str:
        """What a failed run has printed last; bounded."""
        return last_lines((self.outcome.log if self.outcome else "") or self.log)


@dataclass(frozen=True)
class TargetProbe:
    """Whether a run would find what it needs, as the target's place says now."""

    reason: Reason | None = None
    """Why it would not."""
    message: str = ""
    """A sentence for the user in either case."""
    status: ComputeTargetStatusDict = field(default_factory=ComputeTargetStatusDict)
    """Fields of the target's status: what it offers."""
