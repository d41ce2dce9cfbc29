"""The inputs of a FineTuneJob: which are there, which fit, and the plan that they make."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from kubetune.api import JsonObject
from kubetune.api.conditions import Phase, Reason
from kubetune.api.kinds.status_types import (
    AttemptCountsDict,
    FineTuneJobStatusDict,
    LineageDict,
)
from kubetune.api.run.plan import BatchPlan, RunIdentity, RunPlan
from kubetune.api.training.own_code import ScriptTrainer
from kubetune.decide.checks import first_problem
from kubetune.decide.fine_tune_job.checks import CHECKS, trainer_of
from kubetune.decide.fine_tune_job.continuation import (
    adapter_settings,
    method_problem,
)
from kubetune.decide.fine_tune_job.kept_steps import acting_settings, keeps_steps
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.inspected.model import output_uri
from kubetune.decide.inspected.shared import tracking_plan
from kubetune.decide.lineage import lineage
from kubetune.decide.memory.automatic import Known, chosen_before, settle, with_declared
from kubetune.decide.memory.batch import Batch, halving_problem, settle_policy
from kubetune.decide.own_code import code_refused
from kubetune.decide.settings.chats import may_chat, template_problem
from kubetune.decide.settings.effective import (
    batch_below_auto,
    effective_resources,
    effective_settings,
    training_plan,
)
from kubetune.decide.settings.idle import idle_problem, rows_held_out
from kubetune.decide.settings.objectives import (
    settings_problem,
)
from kubetune.decide.settings.own_code import (
    axolotl_config,
    in_plan,
    settings_conflict,
)
from kubetune.decide.settings.weights import weights_problem
from kubetune.decide.settings.workers import processes_of, workers_problem, world_size
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
        self,
        observed: ObservedJob,
        attempt: int,
        settings: JsonObject,
        left: float | None,
        batch: BatchPlan | None = None,
    ) -> RunRequest:
        """The run of an attempt with the settings in force: those of the first submission.

        ``left`` is how long it may run, in seconds; ``batch`` is the attempt's own.
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
            batch=batch,
            target=target,
            resources=effective_resources(settings),
            kept=bool(observed.job.spec and observed.job.spec.deletion_policy == "Orphan"),
            workers=self.plan.workers,
            processes=self.plan.processes,
            deadline_seconds=ceil(left) if left is not None else None,
            checkpoint_claim=(settings.get("checkpoint") or {}).get("claimName"),
            **self.mounts.of_request(),
        )


def resolve(observed: ObservedJob) -> Inputs | NotReady:
    """The inputs, or the first thing that stands in the way."""
    return first_problem(CHECKS, observed) or _assemble(observed)


def freeze(
    status: FineTuneJobStatusDict, counts: AttemptCountsDict, inputs: Inputs | NotReady
) -> JsonObject:
    """Settings in force: the inputs' until a run was started with them, from then on those.

    They stand in ``status`` afterwards. What may change while the job is suspended is the
    exception: resources, and workers; another number of processes starts training over.
    """
    if isinstance(inputs, NotReady):
        return {}
    frozen = status.get("lineage") if counts["total"] else None
    settings = status.get("effective") or inputs.settings
    shape = settings["workers"], processes_of(settings["resources"])
    other = shape != (inputs.plan.workers, inputs.plan.processes)
    if not frozen or other or frozen.get("worldSize") != inputs.plan.world_size:
        settings = inputs.settings
        status["lineage"] = inputs.lineage
    status["effective"] = settings | {"resources": inputs.settings["resources"]}
    return status["effective"]


def _assemble(observed: ObservedJob) -> Inputs | NotReady:
    job, model, dataset = observed.job, observed.model, observed.dataset
    spec, target = job.spec, observed.target.spec
    if spec is None or target is None or model is None or dataset is None:
        raise ValueError("missing inputs are refused before")
    if model.spec is None or dataset.spec is None:
        raise ValueError("unreadable inputs are refused before")
    context = model.status.get("contextLength")
    resources = target.resources
    profile = (
        observed.profile.spec.to_json() if observed.profile and observed.profile.spec else None
    )
    settings = effective_settings(
        spec.to_json(),
        profile,
        resources.to_json() if resources else None,
        context,
        adapter_settings(spec, model),
        model.status,
        chat=may_chat(dataset, observed.prompt.spec if observed.prompt else None),
    )
    if problem := template_problem(spec, settings, model.name, model.status):
        return NotReady(Phase.PENDING, Reason.INPUTS_REFUSED, problem, refused=True)
    trainer = trainer_of(observed)
    if problem := method_problem(settings, spec) or settings_conflict(
        trainer, observed.trainer_text, settings
    ):
        return NotReady(Phase.PENDING, Reason.INPUTS_REFUSED, problem, refused=True)
    declared = Batch(
        batch_below_auto(spec.to_json(), profile),
        settings["hyperparameters"]["gradientAccumulationSteps"],
    )
    settings = settle(
        settings,
        Known(
            model.status,
            dataset.status,
            spec.objective,
            templated=spec.prompt_ref is not None,
            by_trl=trainer is None,
        ),
        declared.size,
        chosen_before(job.status, settings),
    )
    config = axolotl_config(trainer, observed.trainer_text)
    halving = halving_problem(trainer, config, settings)
    settings, problem = settle_policy(spec, settings, halving)
    if problem:
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
    problem = problem or weights_problem(settings, trainer)
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
    strategy = settings.get("strategy")
    facts, lineage_digest = lineage(
        base_model,
        data,
        prompt,
        with_declared(training, settings, declared),
        processes=world_size(settings),
        strategy=strategy,
        unique=unique,
        held_out=rows_held_out(dataset),
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
            report_key=observed.report_key,
        ),
        model=base_model,
        dataset=data,
        prompt=prompt,
        training=training,
        tracking=tracking_plan(target, owner.namespace),
        lineage_digest=lineage_digest,
        workers=settings["workers"],
        processes=processes_of(settings["resources"]),
        strategy=strategy,
        merge=bool(spec.output and spec.output.merge),
    )
    if refusal := code_refused(observed.target, plan):
        return refusal
    shown = acting_settings(settings, target)
    return Inputs(plan, data_mounts | model_mounts, shown, facts)
