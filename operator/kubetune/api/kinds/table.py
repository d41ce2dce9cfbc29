"""The table of kinds: names, spec and status models, printer columns."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.compute_target.status import ComputeTargetStatus
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.api.kinds.dataset.status import DatasetStatus
from kubetune.api.kinds.evaluation.spec import EvaluationSpec
from kubetune.api.kinds.evaluation.status import EvaluationStatus
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.fine_tune_job.status import FineTuneJobStatus
from kubetune.api.kinds.model.spec import ModelSpec
from kubetune.api.kinds.model.status import ModelStatus
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec
from kubetune.api.kinds.prompt_template.status import PromptTemplateStatus
from kubetune.api.kinds.status import ObjectStatus
from kubetune.api.kinds.tuning_profile.spec import TuningProfileSpec
from kubetune.api.schema.base import Value


@dataclass(frozen=True)
class Column:
    """A printer column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


def _condition(kind: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


AGE = Column("Age", ".metadata.creationTimestamp", "date")
READY = Column("Ready", _condition("Ready"))
REASON = Column("Reason", _condition("Ready", "reason"))
MESSAGE = Column("Message", _condition("Ready", "message"), wide=True)


@dataclass(frozen=True)
class Kind:
    """One kind of resource."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    spec: type[Value]
    status: type[ObjectStatus] | None
    columns: tuple[Column, ...]
    description: str
    """What `kubectl explain` says about the kind."""
    namespaced: bool = True
    verbs: tuple[str, ...] = ()
    """What the operator may do with its objects besides reading them and writing their status."""
    why: str = ""
    """What it needs these verbs for."""
    for_admins: bool = False
    """Whether whoever only uses a namespace may not write its objects."""

    @property
    def singular(self) -> str:
        """Lower-case kind."""
        return self.kind.lower()


_TARGET_COLUMNS = (
    READY,
    REASON,
    Column("Tracking", ".spec.tracking.uri"),
    MESSAGE,
    AGE,
)

KINDS: tuple[Kind, ...] = (
    Kind(
        kind="Dataset",
        description="Rows to train on: where they come from, what they mean, how they are split.",
        plural="datasets",
        short_names=("dset",),
        spec=DatasetSpec,
        status=DatasetStatus,
        verbs=("patch",),
        why="finalizer during an inspection in CML",
        columns=(
            READY,
            REASON,
            Column("Train", ".status.rows.train", "integer"),
            Column("Held-Out", ".status.rows.evaluation", "integer"),
            Column("Problems", ".status.problemCount", "integer"),
            Column("Source", ".status.source", wide=True),
            MESSAGE,
            AGE,
        ),
    ),
    Kind(
        kind="Model",
        description="A base model or an adapter, wherever it is kept.",
        plural="models",
        short_names=("mdl",),
        spec=ModelSpec,
        status=ModelStatus,
        verbs=("create", "patch"),
        why="output.modelName; finalizer during an inspection in CML",
        columns=(
            READY,
            REASON,
            Column("Type", ".status.type"),
            Column("Architecture", ".status.architecture"),
            Column("Parameters", ".status.parameters", "integer"),
            Column("Source", ".status.source", wide=True),
            MESSAGE,
            AGE,
        ),
    ),
    Kind(
        kind="PromptTemplate",
        description="How a row of a Dataset becomes training text.",
        plural="prompttemplates",
        short_names=("pt",),
        spec=PromptTemplateSpec,
        status=PromptTemplateStatus,
        verbs=("patch",),
        why="finalizer during an inspection in CML",
        columns=(READY, REASON, Column("Dataset", ".spec.datasetRef.name"), MESSAGE, AGE),
    ),
    Kind(
        kind="FineTuneJob",
        description="One fine-tuning run, from inputs to a registered version.",
        plural="finetunejobs",
        short_names=("ftj",),
        spec=FineTuneJobSpec,
        status=FineTuneJobStatus,
        verbs=("patch", "delete"),
        why="finalizer and run key; ttlSecondsAfterFinished",
        columns=(
            Column("Phase", ".status.phase"),
            Column("Stage", ".status.progress.stage"),
            Column("Progress", ".status.progress.percent", "integer"),
            Column("Loss", ".status.progress.loss"),
            Column("ETA", ".status.progress.eta"),
            Column("Reason", _condition("Ready", "reason")),
            Column("Version", ".status.result.registered.version", "integer", wide=True),
            Column("Model", ".spec.modelRef.name", wide=True),
            Column("Dataset", ".spec.datasetRef.name", wide=True),
            MESSAGE,
            AGE,
        ),
    ),
    Kind(
        kind="Evaluation",
        description="Models measured on the same rows, and the alias that the best one gets.",
        plural="evaluations",
        short_names=("eval",),
        spec=EvaluationSpec,
        status=EvaluationStatus,
        verbs=("patch", "delete"),
        why="finalizer; ttlSecondsAfterFinished",
        columns=(
            Column("Phase", ".status.phase"),
            Column("Stage", ".status.progress.stage"),
            Column("Progress", ".status.progress.percent", "integer"),
            Column("ETA", ".status.progress.eta"),
            Column("Winner", ".status.winner"),
            Column("Passed", _condition("Passed")),
            Column("Reason", _condition("Ready", "reason")),
            Column("Dataset", ".spec.datasetRef.name", wide=True),
            MESSAGE,
            AGE,
        ),
    ),
    Kind(
        kind="ComputeTarget",
        description="Where the runs of a namespace are made and where they report.",
        plural="computetargets",
        short_names=("ct",),
        spec=ComputeTargetSpec,
        status=ComputeTargetStatus,
        verbs=("patch",),
        why="held while runs in CML need it",
        for_admins=True,
        columns=_TARGET_COLUMNS,
    ),
    Kind(
        kind="ClusterComputeTarget",
        description="Where runs are made and where they report, for all namespaces.",
        plural="clustercomputetargets",
        short_names=("cct",),
        spec=ComputeTargetSpec,
        status=ComputeTargetStatus,
        verbs=("patch",),
        why="held while runs in CML need it",
        for_admins=True,
        columns=_TARGET_COLUMNS,
        namespaced=False,
    ),
    Kind(
        kind="TuningProfile",
        description="Reusable settings that the FineTuneJobs of a namespace override.",
        plural="tuningprofiles",
        short_names=("tp",),
        spec=TuningProfileSpec,
        status=None,
        columns=(AGE,),
    ),
    Kind(
        kind="ClusterTuningProfile",
        description="Reusable settings that FineTuneJobs of all namespaces override.",
        plural="clustertuningprofiles",
        short_names=("ctp",),
        spec=TuningProfileSpec,
        status=None,
        for_admins=True,
        columns=(AGE,),
        namespaced=False,
    ),
)

BY_KIND = {kind.kind: kind for kind in KINDS}
RECONCILED = frozenset(kind.kind for kind in KINDS if kind.status)
"""Kinds whose objects the operator reconciles; the others are only read."""
INSPECTED = frozenset(
    kind.kind for kind in KINDS if kind.status and "inspection" in kind.status.model_fields
)
"""Kinds that are inspected by a run of their own."""
RUNNING = INSPECTED | {
    kind.kind for kind in KINDS if kind.status and "external" in kind.status.model_fields
}
"""Kinds whose objects have runs."""
