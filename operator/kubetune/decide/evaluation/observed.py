"""What decide needs to know of an Evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.decide.consent import Lacking
from kubetune.decide.resources import (
    DatasetResource,
    EvaluationResource,
    FineTuneJobResource,
    ModelResource,
    PromptTemplateResource,
    Target,
    TargetProblem,
)
from kubetune.decide.tracker_answers import Asked
from kubetune.keys import Keyring
from kubetune.targets.values import RunState
from kubetune.tracking.base import AliasMove, RegisteredVersion, TrackedRun
from kubetune.tracking.trust import Doubt


@dataclass(frozen=True)
class EvaluationAnswers(Asked):
    """What actions of this reconcile have found out, but for ``claimed``."""

    claimed: tuple[str, str] = ("", "")
    """Tracker and name of spec.promote, once it was asked that the name is the namespace's."""
    found: Mapping[str, TrackedRun | None] = field(default_factory=dict[str, TrackedRun | None])
    """Complete runs by what they were asked for; None where there is none."""
    doubts: Mapping[str, Doubt] = field(default_factory=dict[str, Doubt])
    """Why runs that were found aren't believed, by what they were asked for."""
    signed: frozenset[str] = frozenset()
    """Run keys of what was signed, or can't be."""
    alias_sought: bool = False
    holder: RegisteredVersion | None = None
    """The version that has the alias of spec.promote."""
    move: AliasMove | None = None


@dataclass(frozen=True)
class ObservedCandidate:
    """A candidate and what its Model depends on."""

    name: str
    model_name: str
    model: ModelResource | None = None
    base: ModelResource | None = None
    """The base model of an adapter."""
    base_job: FineTuneJobResource | None = None
    """The job whose output the base model is."""
    job: FineTuneJobResource | None = None
    """The job that has made the model, when it is known."""
    runs: Sequence[RunState] = ()
    run_key: str = ""
    """Of its runs, once its digest is known."""
    tracked: TrackedRun | None = None
    """Newest progress, from the batched read."""
    lacking: Lacking | None = None


@dataclass(frozen=True)
class ObservedEvaluation:
    """An Evaluation and everything around it."""

    evaluation: EvaluationResource
    install_id: str
    keys: Keyring
    target: Target
    """Where new attempts go."""
    candidates: Sequence[ObservedCandidate] = ()
    """In the order of the spec; none when the spec can't be read."""
    started: ComputeTargetSpec | None = None
    """Where attempts were started, by the record in status."""
    dataset: DatasetResource | None = None
    prompt: PromptTemplateResource | None = None
    functions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Code of spec.functions by name, as far as it is there."""
    task_files: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict[str, Mapping[str, str]]
    )
    """Files of spec.tasks by the name of their ConfigMap, as far as it is there."""
    lacking: Lacking | None = None
    target_problem: TargetProblem | None = None
    """Why the target could not be asked about runs; then ``runs`` say nothing."""
    elsewhere: Mapping[str, str] = field(default_factory=dict[str, str])
    """Digests that another Evaluation of the namespace is measuring now -> its name."""
    progress_seconds: float = 10.0
    retry_seconds: float = 10.0
    answers: EvaluationAnswers = field(default_factory=EvaluationAnswers)
    lets_runs_go: bool = False
    """Whether it was deleted with ``--cascade=orphan``."""

    @property
    def place(self) -> ComputeTargetSpec | None:
        """Where its runs are; before the first one, where they will be."""
        return self.started or self.target.spec
