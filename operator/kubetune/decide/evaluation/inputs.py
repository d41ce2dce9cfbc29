"""The inputs of an Evaluation: what all candidates share, and what each one needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil
from typing import Any

from kubetune import __version__
from kubetune.api import JsonObject
from kubetune.api.conditions import Phase, Reason
from kubetune.api.kinds.evaluation.spec import EvaluationSpec, Generation, measured_metrics
from kubetune.api.kinds.status_types import EvaluatedRowsDict, ModelStatusDict
from kubetune.api.metrics.metric import METRIC_NAMES, WITHOUT_REFERENCE
from kubetune.api.run.evaluation_plan import (
    CustomMetricPlan,
    EvaluationRunPlan,
    GenerationPlan,
    TaskPlan,
)
from kubetune.api.run.plan import DatasetPlan, PromptPlan, RunIdentity
from kubetune.api.training.chat_templates import CHAT_TEMPLATES, ChatTemplateName
from kubetune.api.training.families import family_of
from kubetune.api.training.settings import Resources, merge
from kubetune.decide.checks import first_problem, not_there, refused
from kubetune.decide.evaluation.checks import CHECKS
from kubetune.decide.evaluation.judges import judge_keys, judge_plans
from kubetune.decide.evaluation.observed import ObservedCandidate, ObservedEvaluation
from kubetune.decide.evaluation.tasks import task_plans
from kubetune.decide.inspected.model import output_uri
from kubetune.decide.inspected.shared import tracking_plan
from kubetune.decide.lineage import model_identity
from kubetune.decide.own_code import code_refused
from kubetune.decide.settings.chats import may_chat
from kubetune.decide.settings.effective import BUILT_IN
from kubetune.decide.settings.objectives import SCORING
from kubetune.decide.sources import (
    Mounts,
    dataset_source,
    model_source,
    prompt_plan,
    unreachable,
)
from kubetune.decide.trained_rows import of_models
from kubetune.decide.waiting import NotReady
from kubetune.keys import Keyring
from kubetune.names import derived_run_key, digest
from kubetune.targets.values import RunRequest
from kubetune.tracking.trust import report_key

MEASURING = 3
"""Raised where runs measure otherwise, so that what older ones have measured is not taken over."""


@dataclass(frozen=True)
class Shared:
    """What all candidates have in common."""

    data: DatasetPlan
    prompt: PromptPlan | None
    functions: list[CustomMetricPlan]
    tasks: list[TaskPlan]
    mounts: Mounts
    resources: Resources

    @property
    def frozen(self) -> EvaluatedRowsDict:
        """status.data: what must stay the same for all candidates."""
        given: EvaluatedRowsDict = {}
        if self.data.digest is not None:
            given["datasetDigest"] = self.data.digest
        if self.data.split_digest is not None:
            given["splitDigest"] = self.data.split_digest
        if self.functions:
            text = json.dumps([function.to_json() for function in self.functions])
            given["functionsDigest"] = f"sha256:{digest(text)}"
        if files := [task.files for task in self.tasks if task.files]:
            given["tasksDigest"] = f"sha256:{digest(json.dumps(files, sort_keys=True))}"
        return given


@dataclass(frozen=True)
class CandidateInputs:
    """What the run of a candidate is made of."""

    plan: EvaluationRunPlan
    mounts: Mounts
    resources: Resources
    frozen: EvaluatedRowsDict
    """status.data: what must stay the same for all candidates."""
    chat_template: ChatTemplateName | None = None
    """Name of plan.chat_template."""

    def request(
        self, observed: ObservedEvaluation, run_key: str, attempt: int, left: float | None
    ) -> RunRequest:
        """The run of an attempt; ``left`` is how long it may run, in seconds."""
        target = observed.target.spec
        if target is None:
            raise ValueError("a run needs a target")
        plan = self.plan.to_json()
        plan["run"]["runKey"] = run_key
        plan["run"]["reportKey"] = report_key(observed.keys, run_key)
        return RunRequest(
            owner=observed.evaluation.owner,
            run_key=run_key,
            attempt=attempt,
            purpose="evaluate",
            plan=plan,
            target=target,
            resources=self.resources,
            deadline_seconds=ceil(left) if left is not None else None,
            **self.mounts.of_request(),
        )


def candidate_run_key(keys: Keyring, uid: str, candidate: str, digest_: str) -> str:
    """The run key of a candidate: the same for all its attempts."""
    return derived_run_key(keys, uid, candidate, digest_)


def shared_inputs(observed: ObservedEvaluation) -> Shared | NotReady:
    """What all candidates need, or the first thing that stands in the way."""
    return first_problem(CHECKS, observed) or _assemble(observed)


def candidate_inputs(
    observed: ObservedEvaluation, candidate: ObservedCandidate, shared: Shared
) -> CandidateInputs | NotReady:
    """What a candidate's run is made of, or why it can't start."""
    spec, target = observed.evaluation.spec, observed.target.spec
    if spec is None or target is None:
        raise ValueError("missing inputs are refused before")
    named = f"Model {candidate.model_name} of candidate {candidate.name}"
    model = candidate.model
    if model is None:
        message = f"waiting for {named} to be created"
        return NotReady(Phase.PENDING, Reason.MODEL_MISSING, message)
    if not model.is_ready:
        message = f"waiting for {named} to be Ready; {model.why_not_ready}"
        return NotReady(Phase.PREPARING, Reason.MODEL_NOT_READY, message)
    if lacking := not_there(candidate.lacking):
        return lacking
    if model.spec is None:
        return refused(f"{named}: {model.problem}")
    if model.status.get("architecture", "").endswith(SCORING):
        return refused(f"{named} scores texts and generates none: name a language model")
    base = candidate.base
    if model.status.get("type") == "adapter" and (base is None or base.spec is None):
        name = model.spec.base_model_ref.name if model.spec.base_model_ref else ""
        message = f"waiting for Model {name}, the base of {named}, to be created"
        return NotReady(Phase.PENDING, Reason.MODEL_MISSING, message)
    if problem := _trained_on_rows(spec, candidate, shared.data):
        return refused(problem, Reason.TRAINED_ON_ROWS)
    plan, mounts = model_source(
        model.name,
        model.spec,
        model.status,
        registry_uri=output_uri(model, candidate.job),
        base=(base.name, base.spec, base.status) if base and base.spec else None,
        base_registry_uri=output_uri(base, candidate.base_job) if base else None,
    )
    mounts = shared.mounts | mounts
    if problem := unreachable(mounts, target):
        return refused(problem, Reason.SOURCE_UNREACHABLE)
    generation = spec.generation or Generation()
    template = _chat_template(observed, model.status)
    owner = observed.evaluation.owner
    made = EvaluationRunPlan(
        run=RunIdentity(
            install_id=observed.install_id,
            run_key="",
            namespace=owner.namespace,
            name=owner.name,
            uid=owner.uid,
        ),
        candidate=candidate.name,
        model=plan,
        dataset=shared.data,
        split=spec.split,
        prompt=shared.prompt,
        chat_template=CHAT_TEMPLATES[template] if template else None,
        generation=GenerationPlan(
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p if generation.temperature else 1.0,
            batch_size=generation.batch_size,
        ),
        metrics=[name for name in METRIC_NAMES if name in measured_metrics(spec)],
        custom_metrics=shared.functions,
        judges=judge_plans(spec),
        tasks=shared.tasks or None,
        max_rows=spec.max_rows,
        max_loss_rows=spec.max_loss_rows
        if not WITHOUT_REFERENCE.isdisjoint(measured_metrics(spec))
        else None,
        seed=spec.seed,
        samples=spec.samples,
        precision=spec.precision,
        digest="",
        tracking=tracking_plan(target, owner.namespace),
    )
    if refusal := code_refused(observed.target, made):
        return refusal
    placed = [observed.target.label, shared.resources.to_json()]
    digested = made.model_copy(update={"digest": _digest(made, placed)})
    return CandidateInputs(digested, mounts, shared.resources, shared.frozen, template)


def _chat_template(observed: ObservedEvaluation, model: ModelStatusDict) -> ChatTemplateName | None:
    """The template that the model's family brings where rows are chats and the model has none."""
    if observed.dataset is None or model.get("chatTemplate") is not False:
        return None
    if not may_chat(observed.dataset, observed.prompt.spec if observed.prompt else None):
        return None
    return family_of(model.get("modelType")).chat_template


def _digest(plan: EvaluationRunPlan, placed: list[Any]) -> str:
    """Equal digests mean that measuring again would give the same result.

    As with the lineage of a training neither target nor placement counts, unless time is measured.
    """
    content = plan.to_json()
    for key in ("run", "candidate", "digest", "tracking", "model"):
        del content[key]
    data = plan.dataset
    content["dataset"] = [
        data.digest,
        data.split_digest,
        data.format,
        data.columns.to_json(),
    ]
    parts: list[Any] = [
        __version__,
        MEASURING,
        model_identity(plan.model),
        plan.model.trust_remote_code,
        content,
    ]
    if "latency" in plan.metrics:
        parts.append(placed)
    return f"sha256:{digest(json.dumps(parts, sort_keys=True))}"


def _assemble(observed: ObservedEvaluation) -> Shared:
    spec, target, dataset = observed.evaluation.spec, observed.target.spec, observed.dataset
    if spec is None or target is None or dataset is None or dataset.spec is None:
        raise ValueError("unreadable inputs are refused before")
    data, mounts = dataset_source(dataset.name, dataset.spec, dataset.status)
    mounts |= Mounts(tokens=judge_keys(spec))
    prompt = prompt_plan(observed.prompt.spec) if observed.prompt and observed.prompt.spec else None
    resources: JsonObject = BUILT_IN["resources"]
    for layer in (target.resources, spec.resources):
        resources = merge(resources, layer.to_json() if layer else {})
    functions = [
        CustomMetricPlan(
            name=function.name,
            source=observed.functions[function.name],
            timeout_seconds=function.timeout_seconds,
        )
        for function in sorted(spec.functions or (), key=lambda function: function.name)
    ]
    return Shared(
        data,
        prompt,
        functions,
        task_plans(spec, observed.task_files),
        mounts,
        Resources.model_validate(resources),
    )


def _trained_on_rows(spec: EvaluationSpec, candidate: ObservedCandidate, data: DatasetPlan) -> str:
    """A sentence when the candidate was trained on rows of the evaluation, as far as is known.

    A Dataset of the same content with another split has other rows held out.
    """
    if spec.allow_training_rows or not data.digest:
        return ""
    behind = of_models([(candidate.model, candidate.job), (candidate.base, candidate.base_job)])
    for rows in behind:
        if rows["datasetDigest"] != data.digest:
            continue
        same_split = rows.get("splitDigest") == data.split_digest
        if same_split and spec.split == "evaluation":
            continue
        maker = rows.get("by")
        by = f" by FineTuneJob {maker}" if maker else ""
        if rows.get("toldBy"):
            by += " (as the tags of its registered version say, which nothing proves)"
        why = (
            "spec.split is train"
            if same_split
            else "its training held out other rows than the Dataset does now"
        )
        return (
            f"candidate {candidate.name}, or a model that it was made from, was trained{by} on rows"
            f" of Dataset {data.name} that it would be measured on, as {why}: measure it on rows it"
            " has not seen, or set spec.allowTrainingRows"
        )
    return ""
