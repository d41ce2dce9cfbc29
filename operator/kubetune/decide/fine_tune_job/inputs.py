"""The inputs of a FineTuneJob: which are there, which fit, and the plan that they make."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.conditions import Phase, Reason
from kubetune.api.kinds.status_types import (
    AttemptCountsDict,
    FineTuneJobStatusDict,
    LineageDict,
)
from kubetune.api.run.plan import RunIdentity, RunPlan
from kubetune.api.schema.registry_names import MAX_REGISTERED_NAME
from kubetune.api.training.own_code import ScriptTrainer
from kubetune.decide.fine_tune_job.continuation import (
    adapter_settings,
    method_problem,
    start_problem,
)
from kubetune.decide.fine_tune_job.kept_steps import acting_settings, keeps_steps
from kubetune.decide.fine_tune_job.observed import ObservedJob, merged_name, registry_name
from kubetune.decide.inspected.model import output_uri
from kubetune.decide.inspected.prompt_template import slot_problem
from kubetune.decide.inspected.shared import tracking_plan
from kubetune.decide.lineage import lineage
from kubetune.decide.registry import provider_problem
from kubetune.decide.resources import Resource
from kubetune.decide.retries import CONFIG_MAP_SECONDS
from kubetune.decide.settings.chats import may_chat, template_problem
from kubetune.decide.settings.effective import (
    effective_resources,
    effective_settings,
    training_plan,
)
from kubetune.decide.settings.idle import idle_problem
from kubetune.decide.settings.objectives import (
    columns_problem,
    format_problem,
    model_problem,
    rows_problem,
    settings_problem,
)
from kubetune.decide.settings.own_code import (
    OtherTrainer,
    in_plan,
    other_trainer,
    settings_conflict,
    text_missing,
    trainer_problem,
)
from kubetune.decide.settings.workers import workers_problem
from kubetune.decide.sources import (
    Mounts,
    dataset_source,
    model_source,
    prompt_plan,
    unreachable,
)
from kubetune.decide.trained_rows import of_models
from kubetune.decide.waiting import NotReady
from kubetune.targets.values import RunRequest

"""A job isn't told of a ConfigMap that a ClusterTuningProfile names: each namespace has its own."""


@dataclass(frozen=True)
class Inputs:
    """What a submission is made of."""

    plan: RunPlan
    mounts: Mounts
    settings: JsonObject
    """Those that act."""
    lineage: LineageDict

    def request(
        self, observed: ObservedJob, attempt: int, settings: JsonObject, left: float | None
    ) -> RunRequest:
        """The run of an attempt with the settings in force: those of the first submission.

        ``left`` is how long it may run, in seconds.
        """
        target = observed.target.spec
        if target is None:
            raise ValueError("a run needs a target")
        return RunRequest(
            owner=observed.job.owner,
            run_key=observed.run_key,
            attempt=attempt,
            purpose="train",
            plan=self.plan.to_json(),
            target=target,
            resources=effective_resources(settings),
            kept=bool(observed.job.spec and observed.job.spec.deletion_policy == "Orphan"),
            workers=self.plan.workers,
            deadline_seconds=ceil(left) if left is not None else None,
            checkpoint_claim=(settings.get("checkpoint") or {}).get("claimName"),
            **self.mounts.of_request(),
        )


def resolve(observed: ObservedJob) -> Inputs | NotReady:
    """The inputs, or the first thing that stands in the way."""
    return _missing(observed) or _unfit(observed) or _assemble(observed)


def freeze(
    status: FineTuneJobStatusDict, counts: AttemptCountsDict, inputs: Inputs | NotReady
) -> JsonObject:
    """Settings in force: the inputs' until a run was started with them, from then on those.

    They stand in ``status`` afterwards. What may change while the job is suspended is the
    exception: resources, and workers, with which training starts over.
    """
    if isinstance(inputs, NotReady):
        return {}
    frozen = status.get("lineage") if counts["total"] else None
    settings = status.get("effective") or inputs.settings
    if not frozen or frozen.get("worldSize") != inputs.plan.workers:
        settings = inputs.settings
        status["lineage"] = inputs.lineage
    status["effective"] = settings | {"resources": inputs.settings["resources"]}
    return status["effective"]


def _missing(observed: ObservedJob) -> NotReady | None:
    spec = observed.job.spec
    if spec is None:
        return NotReady(Phase.PENDING, Reason.INVALID_SPEC, observed.job.problem, refused=True)
    wanted: list[tuple[str, str | None, Resource[Any, Any] | None, Reason, Reason]] = [
        (
            "Model",
            spec.model_ref.name,
            observed.model,
            Reason.MODEL_MISSING,
            Reason.MODEL_NOT_READY,
        ),
        (
            "Dataset",
            spec.dataset_ref.name,
            observed.dataset,
            Reason.DATASET_MISSING,
            Reason.DATASET_NOT_READY,
        ),
        (
            "PromptTemplate",
            spec.prompt_ref.name if spec.prompt_ref else None,
            observed.prompt,
            Reason.PROMPT_MISSING,
            Reason.PROMPT_NOT_READY,
        ),
    ]
    for kind, name, found, missing, _ in wanted:
        if name and found is None:
            return NotReady(Phase.PENDING, missing, f"waiting for {kind} {name} to be created")
    if spec.profile_ref and observed.profile is None:
        named = f"{spec.profile_ref.kind} {spec.profile_ref.name}"
        return NotReady(Phase.PENDING, Reason.PROFILE_MISSING, f"waiting for {named} to be created")
    if observed.target.spec is None:
        return NotReady(Phase.PENDING, Reason.TARGET_MISSING, observed.target.why_not)
    for kind, name, found, _, not_ready in wanted:
        if name and found is not None and not found.is_ready:
            return NotReady(
                Phase.PREPARING,
                not_ready,
                f"waiting for {kind} {name} to be Ready; {found.why_not_ready}",
            )
    if spec.continue_from and (missing := _missing_base(observed)):
        return missing
    if not observed.target.ready:
        return NotReady(Phase.PREPARING, Reason.TARGET_NOT_READY, observed.target.why_not)
    if observed.secret_problem:
        return NotReady(Phase.PREPARING, Reason.SECRET_MISSING, observed.secret_problem)
    if problem := text_missing(_other_trainer(observed), observed.trainer_text):
        return NotReady(
            Phase.PENDING,
            Reason.CONFIG_MAP_MISSING,
            problem,
            look_again_seconds=CONFIG_MAP_SECONDS,
        )
    return None


def _other_trainer(observed: ObservedJob) -> OtherTrainer | None:
    return other_trainer(observed.job.spec, observed.profile.spec if observed.profile else None)


def _missing_base(observed: ObservedJob) -> NotReady | None:
    """The base model of an adapter, which may be gone since the adapter was inspected."""
    model, base = observed.model, observed.base
    if model is None or model.spec is None or model.spec.base_model_ref is None:
        return None
    name = model.spec.base_model_ref.name
    if base is None:
        message = (
            f"waiting for Model {name} to be created, named by spec.baseModelRef of {model.name}"
        )
        return NotReady(Phase.PENDING, Reason.MODEL_MISSING, message)
    if not base.is_ready:
        message = f"waiting for Model {name} to be Ready; {base.why_not_ready}"
        return NotReady(Phase.PREPARING, Reason.MODEL_NOT_READY, message)
    return None


def _unfit(observed: ObservedJob) -> NotReady | None:
    def refuse(message: str, reason: Reason = Reason.INPUTS_REFUSED) -> NotReady:
        return NotReady(Phase.PENDING, reason, message, refused=True)

    if observed.output_rival:
        return refuse(observed.output_rival, Reason.OUTPUT_MODEL_TAKEN)
    if problem := _registry_problem(observed):
        return refuse(problem, Reason.REGISTRY_PROVIDER_MISMATCH)
    if problem := _name_problem(observed):
        return refuse(problem)
    profile, dataset, prompt, model = (
        observed.profile,
        observed.dataset,
        observed.prompt,
        observed.model,
    )
    if profile and profile.spec is None:
        return refuse(f"the profile can't be read: {profile.problem}")
    if dataset is None or dataset.spec is None or model is None or model.spec is None:
        return refuse("an input's spec can't be read")
    spec = observed.job.spec
    objective = spec.objective if spec else "sft"
    trainer = _other_trainer(observed)
    if problem := trainer_problem(trainer, spec, observed.trainer_text, observed.target.spec):
        return refuse(problem)
    problem = start_problem(spec, model) if spec else ""
    if problem := problem or model_problem(objective, model.name, model.status):
        return refuse(problem)
    if prompt is not None:
        if prompt.spec is None:
            return refuse(f"PromptTemplate {prompt.name}: {prompt.problem}")
        if problem := slot_problem(prompt.spec, dataset.name, dataset.status):
            return refuse(problem, Reason.SLOT_UNKNOWN)
        return None
    # A script takes rows of any format.
    problem = "" if isinstance(trainer, ScriptTrainer) else format_problem(objective, dataset)
    may_template = objective == "sft"
    problem = problem or columns_problem(dataset, with_template=may_template)
    problem = problem or rows_problem(dataset, with_template=may_template)
    return refuse(problem, Reason.FORMAT_MISMATCH) if problem else None


def _registry_problem(observed: ObservedJob) -> str:
    spec, target = observed.job.spec, observed.target.spec
    registry = spec.output.registry if spec and spec.output else None
    if registry is None or target is None:
        return ""
    return provider_problem(registry.provider, target.tracking, "spec.output.registry.provider")


def _name_problem(observed: ObservedJob) -> str:
    """A sentence where the name that a job's own gives is longer than a registry's may be."""
    for name, field in ((registry_name(observed), "name"), (merged_name(observed), "mergedName")):
        if name and len(name) > MAX_REGISTERED_NAME:
            return (
                f"the registered model would be {name}, of {len(name)} characters, and a name has"
                f" at most {MAX_REGISTERED_NAME}: give spec.output.registry.{field}"
            )
    return ""


def _assemble(observed: ObservedJob) -> Inputs | NotReady:
    job, model, dataset = observed.job, observed.model, observed.dataset
    spec, target = job.spec, observed.target.spec
    if spec is None or target is None or model is None or dataset is None:
        raise ValueError("missing inputs are refused before")
    if model.spec is None or dataset.spec is None:
        raise ValueError("unreadable inputs are refused before")
    context = model.status.get("contextLength")
    resources = target.resources
    settings = effective_settings(
        spec.to_json(),
        observed.profile.spec.to_json() if observed.profile and observed.profile.spec else None,
        resources.to_json() if resources else None,
        context,
        adapter_settings(spec, model),
        model.status,
        chat=may_chat(dataset, observed.prompt.spec if observed.prompt else None),
    )
    if problem := template_problem(spec, settings, model.name, model.status):
        return NotReady(Phase.PENDING, Reason.INPUTS_REFUSED, problem, refused=True)
    trainer = _other_trainer(observed)
    if problem := method_problem(settings, spec) or settings_conflict(
        trainer, observed.trainer_text, settings
    ):
        return NotReady(Phase.PENDING, Reason.INPUTS_REFUSED, problem, refused=True)
    base = observed.base
    if spec.continue_from:
        if base is None or base.spec is None:
            raise ValueError("an adapter without its base model is refused before")
        settings |= {"continueFrom": spec.continue_from, "baseModelRef": {"name": base.name}}
    if "maxLength" in settings["hyperparameters"] and context:
        wanted = settings["hyperparameters"]["maxLength"]
        if wanted > context:
            return NotReady(
                Phase.PENDING,
                Reason.INPUTS_REFUSED,
                f"hyperparameters.maxLength {wanted} is above the context length {context} of"
                f" Model {model.name}: lower it",
                refused=True,
            )
    problem = settings_problem(spec.objective, settings) or workers_problem(spec, settings)
    problem = problem or idle_problem(spec, settings, dataset, trainer)
    if problem:
        return NotReady(Phase.PENDING, Reason.INPUTS_REFUSED, problem, refused=True)
    data, data_mounts = dataset_source(dataset.name, dataset.spec, dataset.status)
    base_model, model_mounts = model_source(
        model.name,
        model.spec,
        model.status,
        registry_uri=output_uri(model, observed.model_job),
        base=(base.name, base.spec, base.status)
        if spec.continue_from and base and base.spec
        else None,
        base_registry_uri=output_uri(base, observed.base_job) if base else None,
    )
    prompt = prompt_plan(observed.prompt.spec) if observed.prompt and observed.prompt.spec else None
    if problem := unreachable(data_mounts | model_mounts, target):
        return NotReady(Phase.PENDING, Reason.SOURCE_UNREACHABLE, problem, refused=True)
    training = training_plan(
        settings,
        spec.objective,
        observed.run_key,
        durable=keeps_steps(settings, target),
        other=in_plan(trainer, observed.trainer_text, target),
    )
    # Nobody knows here what is in a script's file.
    unique = observed.run_key if isinstance(trainer, ScriptTrainer) and trainer.path else None
    workers = settings["workers"]
    strategy = settings.get("strategy")
    facts, lineage_digest = lineage(
        base_model, data, prompt, training, workers=workers, strategy=strategy, unique=unique
    )
    behind = of_models([(model, observed.model_job), (base, observed.base_job)])
    if behind:
        # Not in the digest: what was trained on says nothing about what trains now.
        facts["trainedOn"] = behind
    owner = job.owner
    plan = RunPlan(
        run=RunIdentity(
            install_id=observed.install_id,
            run_key=observed.run_key,
            namespace=owner.namespace,
            name=owner.name,
            uid=owner.uid,
        ),
        model=base_model,
        dataset=data,
        prompt=prompt,
        training=training,
        tracking=tracking_plan(target, owner.namespace),
        lineage_digest=lineage_digest,
        workers=workers,
        strategy=strategy,
        merge=bool(spec.output and spec.output.merge),
    )
    shown = acting_settings(settings, target)
    return Inputs(plan, data_mounts | model_mounts, shown, facts)
