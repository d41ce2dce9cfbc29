"""What stands in the way of a FineTuneJob: inputs that are missing, and inputs that don't fit."""

from __future__ import annotations

from kubetune.api.conditions import Phase, Reason
from kubetune.api.schema.registry_names import MAX_REGISTERED_NAME
from kubetune.api.training.own_code import ScriptTrainer
from kubetune.decide.checks import (
    Check,
    NamedInput,
    not_created,
    not_ready,
    nothing_lacking,
    refused,
    refused_if,
    target_created,
    target_ready,
)
from kubetune.decide.fine_tune_job.continuation import start_problem
from kubetune.decide.fine_tune_job.observed import ObservedJob, merged_name, registry_name
from kubetune.decide.inspected.prompt_template import slot_problem
from kubetune.decide.registry import provider_problem
from kubetune.decide.retries import CONFIG_MAP_SECONDS
from kubetune.decide.settings.gpu_labels import gpu_label_problem
from kubetune.decide.settings.objectives import (
    columns_problem,
    format_problem,
    model_problem,
    rows_problem,
)
from kubetune.decide.settings.own_code import (
    OtherTrainer,
    other_trainer,
    text_missing,
    trainer_problem,
)
from kubetune.decide.waiting import NotReady


def trainer_of(observed: ObservedJob) -> OtherTrainer | None:
    """What trains in trl's place, by job or profile."""
    return other_trainer(observed.job.spec, observed.profile.spec if observed.profile else None)


def _spec(observed: ObservedJob) -> NotReady | None:
    if observed.job.spec is None:
        return refused(observed.job.problem, Reason.INVALID_SPEC)
    return None


def _named(observed: ObservedJob) -> list[NamedInput]:
    spec = observed.job.spec
    if spec is None:
        return []
    model, data, prompt = spec.model_ref.name, spec.dataset_ref.name, spec.prompt_ref
    return [
        NamedInput("Model", model, observed.model, Reason.MODEL_MISSING, Reason.MODEL_NOT_READY),
        NamedInput(
            "Dataset", data, observed.dataset, Reason.DATASET_MISSING, Reason.DATASET_NOT_READY
        ),
        NamedInput(
            "PromptTemplate",
            prompt.name if prompt else None,
            observed.prompt,
            Reason.PROMPT_MISSING,
            Reason.PROMPT_NOT_READY,
        ),
    ]


def _inputs_created(observed: ObservedJob) -> NotReady | None:
    return not_created(_named(observed))


def _profile_created(observed: ObservedJob) -> NotReady | None:
    wanted = observed.job.spec.profile_ref if observed.job.spec else None
    if wanted is None or observed.profile is not None:
        return None
    message = f"waiting for {wanted.kind} {wanted.name} to be created"
    return NotReady(Phase.PENDING, Reason.PROFILE_MISSING, message)


def _inputs_ready(observed: ObservedJob) -> NotReady | None:
    return not_ready(_named(observed))


def _base_ready(observed: ObservedJob) -> NotReady | None:
    """The base model of an adapter may be gone since the adapter was inspected."""
    spec, model, base = observed.job.spec, observed.model, observed.base
    if spec is None or not spec.continue_from:
        return None
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


def _trainer_text_there(observed: ObservedJob) -> NotReady | None:
    problem = text_missing(trainer_of(observed), observed.trainer_text)
    if not problem:
        return None
    return NotReady(
        Phase.PENDING,
        Reason.CONFIG_MAP_MISSING,
        problem,
        look_again_seconds=CONFIG_MAP_SECONDS,
    )


def _labels_allowed(observed: ObservedJob) -> NotReady | None:
    spec, profile = observed.job.spec, observed.profile
    given = (
        ("spec", spec.resources if spec else None),
        (
            f"{profile.owner.kind} {profile.name}: spec" if profile else "",
            profile.spec.resources if profile and profile.spec else None,
        ),
    )
    return refused_if(gpu_label_problem(observed.target, given))


def _output_name_free(observed: ObservedJob) -> NotReady | None:
    return refused_if(observed.output_rival, Reason.OUTPUT_MODEL_TAKEN)


def _registry_fits(observed: ObservedJob) -> NotReady | None:
    spec, target = observed.job.spec, observed.target.spec
    registry = spec.output.registry if spec and spec.output else None
    if registry is None or target is None:
        return None
    field = "spec.output.registry.provider"
    problem = provider_problem(registry.provider, target.tracking, field)
    return refused_if(problem, Reason.REGISTRY_PROVIDER_MISMATCH)


def _registered_names_fit(observed: ObservedJob) -> NotReady | None:
    """A name that the job's own gives may be longer than a registry's may be."""
    for name, field in ((registry_name(observed), "name"), (merged_name(observed), "mergedName")):
        if name and len(name) > MAX_REGISTERED_NAME:
            return refused(
                f"the registered model would be {name}, of {len(name)} characters, and a name has"
                f" at most {MAX_REGISTERED_NAME}: give spec.output.registry.{field}"
            )
    return None


def _specs_readable(observed: ObservedJob) -> NotReady | None:
    profile, dataset, model = observed.profile, observed.dataset, observed.model
    if profile and profile.spec is None:
        return refused(f"the profile can't be read: {profile.problem}")
    if dataset is None or dataset.spec is None or model is None or model.spec is None:
        return refused("an input's spec can't be read")
    return None


def _trainer_fits(observed: ObservedJob) -> NotReady | None:
    trainer, spec = trainer_of(observed), observed.job.spec
    return refused_if(trainer_problem(trainer, spec, observed.trainer_text, observed.target.spec))


def _model_fits(observed: ObservedJob) -> NotReady | None:
    spec, model = observed.job.spec, observed.model
    if spec is None or model is None:
        return None
    start = start_problem(spec, model)
    return refused_if(start or model_problem(spec.objective, model.name, model.status))


def _prompt_fits(observed: ObservedJob) -> NotReady | None:
    prompt, dataset = observed.prompt, observed.dataset
    if prompt is None or dataset is None:
        return None
    if prompt.spec is None:
        return refused(f"PromptTemplate {prompt.name}: {prompt.problem}")
    return refused_if(slot_problem(prompt.spec, dataset.name, dataset.status), Reason.SLOT_UNKNOWN)


def _rows_fit(observed: ObservedJob) -> NotReady | None:
    spec, dataset = observed.job.spec, observed.dataset
    if spec is None or dataset is None or observed.prompt is not None:
        return None
    # A script takes rows of any format.
    takes_any = isinstance(trainer_of(observed), ScriptTrainer)
    problem = "" if takes_any else format_problem(spec.objective, dataset)
    may_template = spec.objective == "sft"
    problem = problem or columns_problem(dataset, with_template=may_template)
    problem = problem or rows_problem(dataset, with_template=may_template)
    return refused_if(problem, Reason.FORMAT_MISMATCH)


CHECKS: tuple[Check[ObservedJob], ...] = (
    _spec,
    _inputs_created,
    _profile_created,
    target_created,
    _inputs_ready,
    _base_ready,
    target_ready,
    nothing_lacking,
    _trainer_text_there,
    _labels_allowed,
    _output_name_free,
    _registry_fits,
    _registered_names_fit,
    _specs_readable,
    _trainer_fits,
    _model_fits,
    _prompt_fits,
    _rows_fit,
)
"""In order: what is told is the first thing that somebody has to do."""
