"""Kind FineTuneJob: one fine-tuning run, from inputs to a registered version."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kubetune.api.base import LocalRef, ObjectName, Value
from kubetune.api.model import PROVIDER, RegistryAlias, RegistryName, RegistryProvider
from kubetune.api.objectives import Objective, objective_rules
from kubetune.api.references import ComputeTargetRef, TuningProfileRef
from kubetune.api.rules import Rule, TransitionRule, unchanged
from kubetune.api.training import TrainingSettings

_FROZEN = (
    "modelRef",
    "datasetRef",
    "promptRef",
    "profileRef",
    "computeTargetRef",
    "objective",
    "dpo",
    "kto",
    "reward",
    "method",
    "data",
    "hyperparameters",
    "trainer",
    "evaluation",
    "checkpoint",
    "backoffLimit",
    "output",
    "reuse",
)


class RegistryOutput(Value):
    """Where the result is registered."""

    provider: RegistryProvider | None = Field(default=None, description=PROVIDER)
    name: RegistryName | None = Field(
        default=None,
        description="Registered model that gets a new version. Default: <namespace>-<job name>.",
    )
    alias: RegistryAlias | None = Field(
        default=None, description="Alias that moves to the new version, such as champion."
    )


class Output(Value):
    """What becomes of the result."""

    model_name: ObjectName | None = Field(
        default=None,
        description="Model object that is made for the result. Default: none is made.",
    )
    registry: RegistryOutput | None = Field(
        default=None,
        description="Register the result in the tracking server's model registry. Default: not.",
    )


class FineTuneJobSpec(TrainingSettings):
    """What the user declares. It can't be changed, but for the fields that say so."""

    rules: ClassVar[tuple[Rule, ...]] = objective_rules()
    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        *(
            unchanged(field, "delete the job and make a new one, with another name")
            for field in _FROZEN
        ),
        TransitionRule(
            cel=(
                "(has(self.resources) == has(oldSelf.resources) &&"
                " (!has(self.resources) || self.resources == oldSelf.resources))"
                " || (has(oldSelf.suspend) && oldSelf.suspend)"
            ),
            message="resources can be changed only while the job is suspended;"
            " set suspend: true first",
        ),
    )

    model_ref: LocalRef = Field(description="Model to start from.")
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
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Seconds from start to end, all attempts, suspension aside. May be changed."
        " Default: no limit.",
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
