"""What decide needs to know of a FineTuneJob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.decide.consent import Lacking
from kubetune.decide.gate import Demand
from kubetune.decide.resources import (
    DatasetResource,
    FineTuneJobResource,
    ModelResource,
    ProfileResource,
    PromptTemplateResource,
    Target,
    TargetProblem,
)
from kubetune.decide.tracker_answers import Asked
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunState
from kubetune.tracking.base import RegisteredVersion, TrackedRun
from kubetune.tracking.trust import Doubt


@dataclass(frozen=True)
class TrackerAnswers(Asked):
    """What actions of this job have found out; kept in memory, and found again when lost."""

    identical: RegisteredVersion | None = None
    identical_sought: bool = False
    identical_merged: RegisteredVersion | None = None
    """Of the merged model, where one is asked for."""
    identical_merged_sought: bool = False
    doubt: Doubt | None = None
    """Why a version with the same lineage isn't adopted."""
    run: TrackedRun | None = None
    run_sought: bool = False
    registered: RegisteredVersion | None = None
    merged: RegisteredVersion | None = None


@dataclass(frozen=True)
class ObservedJob:
    """A FineTuneJob and everything around it."""

    job: FineTuneJobResource
    install_id: str
    run_key: str
    """The job's own, when it is found and honoured, else a fresh one."""
    stamped: bool
    """Whether the object carries its copy of the run key, and the finalizer."""
    target: Target
    """Where new attempts go."""
    report_key: str = ""
    """What its runs vouch with for what they track."""
    started: ComputeTargetSpec | None = None
    """Where the newest attempt was started, by the record in status."""
    fresh: bool = False
    """The run key was made just now, so nothing was sent for it."""
    lets_runs_go: bool = False
    """Whether the job was deleted with ``--cascade=orphan``."""
    recorded: bool = True
    """Whether status carries the run key."""
    model: ModelResource | None = None
    base: ModelResource | None = None
    """The base model of an adapter."""
    model_job: FineTuneJobResource | None = None
    """The job whose output the model is."""
    base_job: FineTuneJobResource | None = None
    """The job whose output the base model is."""
    dataset: DatasetResource | None = None
    prompt: PromptTemplateResource | None = None
    profile: ProfileResource | None = None
    trainer_text: str | None = None
    """What the ConfigMap of the trainer has."""
    lacking: Lacking | None = None
    output: ModelResource | None = None
    """The Model that was made of the result, when it exists."""
    output_rival: str = ""
    """A sentence when the output Model's name belongs to another."""
    runs: Sequence[RunState] = ()
    target_problem: TargetProblem | None = None
    """Why the target could not be asked about runs; then ``runs`` says nothing."""
    tracked: TrackedRun | None = None
    """Newest progress, from the batched read."""
    answers: TrackerAnswers = field(default_factory=TrackerAnswers)
    progress_seconds: float = 10.0
    retry_seconds: float = 10.0

    @property
    def outlives_owner(self) -> bool:
        """Whether runs stay where they are when the job is deleted."""
        return facts_of(self.place).runs_outlive_owner

    @property
    def place(self) -> ComputeTargetSpec | None:
        """Where its runs are; before the first one, where it will be."""
        return self.started or self.target.spec


def registry_name(observed: ObservedJob) -> str | None:
    """The registered model that gets a version, or None when none is asked for."""
    spec = observed.job.spec
    if spec is None or spec.output is None or spec.output.registry is None:
        return None
    owner = observed.job.owner
    # Neither may have this sign in it, so that no two jobs have the same name.
    return spec.output.registry.name or f"{owner.namespace}_{owner.name}"


def merged_name(observed: ObservedJob) -> str | None:
    """The registered model of the merged model, or None when none is asked for."""
    spec, name = observed.job.spec, registry_name(observed)
    if spec is None or spec.output is None or not spec.output.merge or name is None:
        return None
    registry = spec.output.registry
    return (registry.merged_name if registry else None) or f"{name}-merged"


def registry_alias(observed: ObservedJob) -> str | None:
    """The alias that moves to the version, when one is asked for."""
    spec = observed.job.spec
    registry = spec.output.registry if spec and spec.output else None
    return registry.alias if registry else None


def promotion_demands(observed: ObservedJob) -> list[Demand]:
    """What the final metrics must be for the alias to move."""
    spec = observed.job.spec
    registry = spec.output.registry if spec and spec.output else None
    rules = (registry.promote_when if registry else None) or ()
    return [Demand(rule.metric, rule.min, rule.max) for rule in rules]
