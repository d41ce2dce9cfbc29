"""Kind FineTuneJob: one fine-tuning run, from inputs to a registered version."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from kubetune.api.kinds.model.spec import PROVIDER, RegistryProvider
from kubetune.api.schema.base import LimitSeconds, LocalRef, ObjectName, Value
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.references import ComputeTargetRef, TuningProfileRef
from kubetune.api.schema.registry_names import (
    RegistryAlias,
    RegistryName,
    not_reserved,
    registrable,
)
from kubetune.api.schema.rules import (
    Message,
    Rule,
    TransitionRule,
    changed_while_suspended,
    exactly_one,
    unchanged,
)
from kubetune.api.training.method import EIGHT_BITS
from kubetune.api.training.objective_settings import WITH_SETTINGS
from kubetune.api.training.objectives import LOGGED_NAMES, Objective, objective_rules
from kubetune.api.training.settings import ContinueFrom, TrainingSettings

_FROZEN = (
    "modelRef",
    "continueFrom",
    "datasetRef",
    "promptRef",
    "profileRef",
    "computeTargetRef",
    "objective",
    *WITH_SETTINGS,
    "method",
    "data",
    "hyperparameters",
    "tokenizer",
    "trainer",
    "evaluation",
    "strategy",
    "checkpoint",
    "progressDeadlineSeconds",
    "backoffLimit",
    "onOutOfMemory",
    "output",
    "reuse",
)


_AS_HERE = "self.metric" + "".join(
    f".replace('{start}', '{start[1:].upper()}')"
    for start in sorted({part for name in LOGGED_NAMES for part in re.findall("[_/].", name)})
)
_LOGGED = "|".join(name for name in LOGGED_NAMES if not name.startswith("baseline_"))


class PromotionRule(Value):
    """A demand on a final metric: min or max."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("min", "max"),
        Rule(
            cel=f"!self.metric.matches('^(baseline_)?({_LOGGED})$')",
            message="give the name that the metric has in status.result.metrics, such as"
            " exactMatch, not MLflow's, such as exact_match",
            check=lambda rule: rule.metric not in LOGGED_NAMES,
            field="metric",
            exact=Message(
                cel=f"self.metric + ' is called ' + {_AS_HERE} + ' here'",
                text=lambda rule: f"{rule.metric} is called {LOGGED_NAMES[rule.metric]} here",
            ),
        ),
    )

    metric: str = Field(
        min_length=1,
        max_length=63,
        description="Name of a metric of status.result.metrics, such as evalLoss or exactMatch.",
    )
    min: float | None = Field(default=None, description="Lowest value that passes.")
    max: float | None = Field(default=None, description="Highest value that passes.")


class RegistryOutput(Value):
    """Where the result is registered."""

    rules: ClassVar[tuple[Rule, ...]] = (
        registrable(),
        registrable("merged_name"),
        not_reserved(),
        Rule(
            cel="!has(self.mergedName) || !has(self.name) || self.mergedName != self.name",
            message="mergedName must differ from name: the adapter and the merged model are"
            " versions of two registered models",
            check=lambda registry: (
                registry.merged_name is None or registry.merged_name != registry.name
            ),
            field="mergedName",
        ),
        Rule(
            cel="!has(self.promoteWhen) || has(self.alias)",
            message="promoteWhen decides whether the alias moves: give the alias too",
            check=lambda registry: registry.promote_when is None or registry.alias is not None,
            field="promoteWhen",
        ),
    )

    provider: RegistryProvider | None = Field(default=None, description=PROVIDER)
    name: RegistryName | None = Field(
        default=None,
        description="Registered model that gets a new version. Default: <namespace>_<job name>.",
    )
    alias: RegistryAlias | None = Field(
        default=None, description="Alias that moves to the new version, such as champion."
    )
    merged_name: RegistryName | None = Field(
        default=None,
        description="Registered model that gets the merged model's version, with output.merge."
        " Default: the name with -merged.",
    )
    promote_when: list[PromotionRule] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="What the final metrics must be for the alias to move; the version is"
        " registered anyway. Default: it moves always.",
    )


class Output(Value):
    """What becomes of the result."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.registry) || !has(self.registry.mergedName)"
            " || (has(self.merge) && self.merge)",
            message="registry.mergedName names the merged model: set merge to true, or remove it",
            check=lambda output: (
                output.merge or output.registry is None or output.registry.merged_name is None
            ),
        ),
    )

    model_name: ObjectName | None = Field(
        default=None,
        description="Model object that is made for the result. Default: none is made.",
    )
    registry: RegistryOutput | None = Field(
        default=None,
        description="Register the result in the tracking server's model registry. Default: no.",
    )
    merge: bool = Field(
        default=False,
        description="Merge the adapter into its base model, too, and upload that as a model of its"
        " own, registered with registry. Default false.",
    )


_MERGES = "(has(self.output) && has(self.output.merge) && self.output.merge)"
_SHARDS = "(has(self.strategy) && self.strategy == 'fsdp2')"
_EIGHT_BITS = (
    "(has(self.method) && has(self.method.quantization) && has(self.method.quantization.bits)"
    " && self.method.quantization.bits == 8)"
)
_FULL = "(has(self.method) && has(self.method.type) && self.method.type == 'full')"


def _merges(spec: FineTuneJobSpec) -> bool:
    return spec.output is not None and spec.output.merge


def _eight_bits(spec: FineTuneJobSpec) -> bool:
    quantization = spec.method.quantization if spec.method else None
    return quantization is not None and quantization.bits == EIGHT_BITS


def _full(spec: FineTuneJobSpec) -> bool:
    return spec.method is not None and spec.method.type == "full"


_OTHER = "(has(self.trainer) && (has(self.trainer.script) || has(self.trainer.axolotl)))"


def _other(spec: FineTuneJobSpec) -> bool:
    """Whether something else than trl trains."""
    return spec.trainer is not None and bool(spec.trainer.script or spec.trainer.axolotl)


_SCRIPT = "(has(self.trainer) && has(self.trainer.script))"


def _script(spec: FineTuneJobSpec) -> bool:
    return spec.trainer is not None and spec.trainer.script is not None


class FineTuneJobSpec(TrainingSettings):
    """What the user declares. It can't be changed, but for the fields that say so."""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("computeTargetRef", "ComputeTarget", or_default=True),
        Reference("modelRef", "Model"),
        Reference("datasetRef", "Dataset"),
        Reference("promptRef", "PromptTemplate"),
        Reference("profileRef", "TuningProfile"),
        Reference("output.modelName", "Model"),
        *TrainingSettings.references,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!{_OTHER} || self.objective == 'sft'",
            message="trainer.script and trainer.axolotl go with objective sft, whatever a script"
            " optimises: leave objective out",
            check=lambda spec: not _other(spec) or spec.objective == "sft",
            field="trainer",
        ),
        Rule(
            cel=f"!{_OTHER} || !has(self.continueFrom)",
            message="trainer.script and trainer.axolotl start from a base model; remove"
            " continueFrom",
            check=lambda spec: not (_other(spec) and spec.continue_from),
            field="trainer",
        ),
        Rule(
            cel=f"!{_SCRIPT} || !has(self.onOutOfMemory) || self.onOutOfMemory != 'HalveBatch'",
            message="onOutOfMemory HalveBatch changes the batch of the next attempt, and what"
            " batches a script makes is its own: use Retry or Fail",
            check=lambda spec: not (_script(spec) and spec.on_out_of_memory == "HalveBatch"),
            field="onOutOfMemory",
        ),
        *objective_rules(),
        Rule(
            cel=f"!{_MERGES} || !{_FULL}",
            message="output.merge goes with methods lora and qlora: method full trains a whole"
            " model; remove merge",
            check=lambda spec: not (_merges(spec) and _full(spec)),
        ),
        Rule(
            cel=f"!{_MERGES} || !has(self.continueFrom) || self.continueFrom != 'merged'",
            message="with continueFrom merged the result is a merged model already; remove"
            " output.merge",
            check=lambda spec: not (_merges(spec) and spec.continue_from == "merged"),
        ),
        Rule(
            cel=f"!has(self.continueFrom) || self.continueFrom != 'adapter' || !{_FULL}",
            message="continueFrom adapter continues training the adapter, method full trains all"
            " weights: use lora or qlora, or continueFrom merged",
            check=lambda spec: not (spec.continue_from == "adapter" and _full(spec)),
            field="continueFrom",
        ),
        Rule(
            cel="!has(self.continueFrom) || self.continueFrom != 'adapter'"
            " || self.objective == 'sft'",
            message="continueFrom adapter goes with objective sft; use merged, so that answers are"
            " compared with those of the model as it was before",
            check=lambda spec: spec.continue_from != "adapter" or spec.objective == "sft",
            field="continueFrom",
        ),
        Rule(
            cel=f"!(has(self.continueFrom) || {_MERGES}) || self.objective != 'reward'",
            message="continueFrom and output.merge need a model that generates text, and objective"
            " reward leaves one that scores it; remove them",
            check=lambda spec: (
                not (spec.objective == "reward" and (spec.continue_from or _merges(spec)))
            ),
        ),
        Rule(
            # With resources it takes those of the target and the profile to tell.
            cel="!has(self.strategy) || !has(self.workers) || self.workers > 1"
            " || has(self.resources)",
            message="strategy is about several processes: set workers, resources.gpu or"
            " resources.processes, or remove it",
            check=lambda spec: (
                spec.strategy is None or spec.workers != 1 or spec.resources is not None
            ),
            field="strategy",
        ),
        Rule(
            cel=f"!{_SHARDS} || !{_EIGHT_BITS}",
            message="weights of 8 bits can't be sharded: use ddp, or method.quantization.bits 4",
            check=lambda spec: spec.strategy != "fsdp2" or not _eight_bits(spec),
            field="strategy",
        ),
        Rule(
            cel="!has(self.data) || !has(self.data.longRows) || self.objective == 'sft'",
            message="data.longRows goes with objective sft; remove it",
            check=lambda spec: (
                spec.data is None or spec.data.long_rows is None or spec.objective == "sft"
            ),
        ),
    )
    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        unchanged(
            _FROZEN,
            "make a new job",
            always=("modelRef", "datasetRef", "objective", "reuse"),
        ),
        changed_while_suspended("resources"),
        changed_while_suspended("workers"),
    )

    model_ref: LocalRef = Field(description="Model to start from.")
    continue_from: ContinueFrom | None = Field(
        default=None,
        description="How to start from a Model that is an adapter: adapter continues training its"
        " weights, merged merges it into its base model first, and the result is a whole model."
        " Default: the Model must be a base model.",
    )
    dataset_ref: LocalRef = Field(description="Dataset to train on.")
    prompt_ref: LocalRef | None = Field(
        default=None,
        description="PromptTemplate that makes text of rows. Default: the Dataset's columns as"
        " they are.",
    )
    profile_ref: TuningProfileRef | None = Field(
        default=None, description="Settings to start from; the job's own win."
    )
    compute_target_ref: ComputeTargetRef | None = Field(
        default=None,
        description="Where to run. Default: the namespace's default target, then the cluster's.",
    )
    objective: Objective = Field(
        default="sft",
        description="What is optimised: sft (imitate the answers), dpo (prefer chosen answers to"
        " rejected ones), kto (prefer answers labelled true), reward (a model that scores"
        " answers). Default sft.",
    )
    active_deadline_seconds: LimitSeconds | None = Field(
        default=None,
        description="Seconds that the job's runs may be under way, all attempts together. Waiting"
        " doesn't count: for a queue, a node or images, between attempts, while suspended,"
        " or for registration. May be changed. Default: no limit.",
    )
    waiting_deadline_seconds: LimitSeconds | None = Field(
        default=None,
        description="Seconds that the job may wait until a run can be submitted, in all: for"
        " what it names, its target, or what either needs. Then it fails. Time in which runs queue"
        " or run, in which it is suspended, and between a failed attempt and the next doesn't"
        " count. May be changed. Default: no limit.",
    )
    queue_deadline_seconds: LimitSeconds | None = Field(
        default=None,
        description="Seconds that submitted runs may wait to begin, all attempts together: for a"
        " queue, a node, images or room in a workspace. Then the job fails and no run of it is"
        " left. May be changed. Default: no limit.",
    )
    suspend: bool = Field(
        default=False,
        description="Stop the run and start none until false again. May be changed. Default false.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after the end when the job deletes itself. May be changed."
        " Default: never.",
    )
    output: Output | None = Field(default=None, description="What becomes of the result.")
    reuse: Literal["IfIdentical", "Never"] = Field(
        default="IfIdentical",
        description="IfIdentical adopts a registered version with the same lineage digest instead"
        " of training again. Default IfIdentical.",
    )
    deletion_policy: Literal["Delete", "Orphan"] = Field(
        default="Delete",
        description="What deletion of the job does to its running Job: Delete stops it, Orphan"
        " leaves it. Registered versions and MLflow runs always stay. May be changed."
        " Default Delete.",
    )
