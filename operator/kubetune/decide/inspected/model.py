"""Model: Ready once an inspection knows what it is, and an adapter's base fits."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime

from kubetune.api.conditions import ConditionType, InspectionResult, Reason
from kubetune.api.kinds.inspection import ModelInspection
from kubetune.api.kinds.model.spec import ModelSpec
from kubetune.api.kinds.status_types import (
    JobOutputDict,
    ModelInspectionDict,
    ModelStatusDict,
    RegisteredResultDict,
)
from kubetune.api.run.plan import InspectionPlan
from kubetune.decide.decision import (
    Conditions,
    Decision,
    DeleteRuns,
    ModelDecision,
    condition_is,
    conditions_of,
)
from kubetune.decide.identity import with_maker
from kubetune.decide.inspected.guard import concluded, delete
from kubetune.decide.inspected.inspection import Found, Refused, inspection_run_key
from kubetune.decide.inspected.shared import (
    InspectionFacts,
    conclude,
    identity,
    inspect,
    tracking_plan,
)
from kubetune.decide.registry import provider_problem
from kubetune.decide.resources import FineTuneJobResource, ModelResource
from kubetune.decide.sources import Mounts, model_line, model_source
from kubetune.decide.trained_rows import of_job

_VERSION = re.compile(r"models:/([^/@]+)/(\d+)")
RESULT_FIELDS = tuple(field.alias or name for name, field in ModelInspection.model_fields.items())


@dataclass(frozen=True)
class ObservedModel:
    """A Model and what it depends on."""

    model: ModelResource
    facts: InspectionFacts
    base: ModelResource | None = None
    """The Model named by baseModelRef, when it exists."""
    job: FineTuneJobResource | None = None
    """The FineTuneJob named by the source, when it exists."""
    base_job: FineTuneJobResource | None = None
    """The FineTuneJob whose output the base is."""


def job_output_uri(job: FineTuneJobResource) -> str | None:
    """Where the result of a complete job is kept, as the tracker names it."""
    result = job.status.get("result") or {}
    if registered := result.get("registered"):
        return f"models:/{registered['name']}/{registered['version']}"
    return result.get("modelUri")


def output_uri(model: ModelResource, job: FineTuneJobResource | None) -> str | None:
    """Where a Model that is the output of a job is kept; the job itself may be gone."""
    if model.spec is None or model.spec.source.fine_tune_job is None:
        return None
    return _kept_uri(model) or (job_output_uri(job) if job else None)


def _kept_uri(model: ModelResource) -> str | None:
    source = model.spec.source.fine_tune_job if model.spec else None
    known = model.status.get("jobOutput")
    return known["uri"] if source and known and known["name"] == source.name else None


def registered_version(
    model: ModelResource, job: FineTuneJobResource | None
) -> RegisteredResultDict | None:
    """The registered version that a Model with the result of a job is, when it is one."""
    found = _VERSION.fullmatch(output_uri(model, job) or "")
    return {"name": found[1], "version": int(found[2])} if found else None


def _with_output(observed: ObservedModel, decision: ModelDecision) -> ModelDecision:
    """The decision for a Model, which keeps what its job has left."""
    model, job = observed.model, observed.job
    uri = _kept_uri(model)
    if uri is None and job and condition_is(job.status, ConditionType.COMPLETE):
        uri = output_uri(model, job)
    source = model.spec.source.fine_tune_job if model.spec else None
    if uri is None or source is None:
        return decision
    known: JobOutputDict = {"name": source.name, "uri": uri}
    before = model.status.get("jobOutput")
    # Another job of its name may have left something else by now.
    maker = job if job and job_output_uri(job) == uri else None
    kept = before if before and before["uri"] == uri else known
    told = (maker.status.get("result") or {}) if maker else {}
    if files := told.get("filesDigest") or kept.get("filesDigest"):
        known["filesDigest"] = files
    if rows := (of_job(maker) if maker else None) or kept.get("trainedOn"):
        known["trainedOn"] = rows
    if decision.status is None and before == known:
        return decision
    status = model.status if decision.status is None else decision.status
    return replace(decision, status=status | {"jobOutput": known})


def inspection_of(observed: ObservedModel) -> tuple[InspectionPlan, Mounts]:
    """What must be read."""
    model = observed.model
    assert model.spec is not None
    base = observed.base
    plan, mounts = model_source(
        model.name,
        model.spec,
        registry_uri=output_uri(model, observed.job),
        base=(base.name, base.spec, base.status) if base and base.spec else None,
        base_registry_uri=output_uri(base, observed.base_job) if base else None,
    )
    run = identity(model.owner, observed.facts.install_id)
    target = observed.facts.target.spec
    # A version in a registry is another one on another server.
    registry = (
        tracking_plan(target, model.owner.namespace) if plan.registry_uri and target else None
    )
    return InspectionPlan(kind="inspectModel", run=run, model=plan, tracking=registry), mounts


def decide(observed: ObservedModel, now: datetime) -> ModelDecision:
    """What to do for a Model."""
    model = observed.model
    if model.deleting:
        return delete(model, observed.facts, now)
    decision = _with_output(observed, _decide(observed, now))
    return with_maker(model, concluded(model, observed.facts, decision))


def _decide(observed: ObservedModel, now: datetime) -> ModelDecision:
    model = observed.model
    conditions = conditions_of(model.status, model.generation, now)
    status: ModelStatusDict = {
        "observedGeneration": model.generation,
        "conditions": conditions.current,
    }

    # 1. The spec can't be read.
    spec = model.spec
    if spec is None:
        conditions.stalled(Reason.INVALID_SPEC, model.problem)
        return Decision(status=status)
    status["source"] = model_line(spec)

    # 2. Once inspected, neither the job nor the base is asked again.
    state = model.status.get("inspection") or {}
    if model.is_ready and state.get("result") == InspectionResult.FOUND and "key" in state:
        left = DeleteRuns(inspection_run_key(observed.facts.keys, model.owner, state["key"]))
        return Decision((left,) if observed.facts.runs else ())

    # 3. What it names must exist and be ready.
    if _waits_for_job(observed, conditions) or _waits_for_base(observed, conditions):
        return Decision(status=status)

    # 4. A registry that runs can't reach.
    if registered := spec.source.registry:
        target = observed.facts.target.spec
        field = "spec.source.registry.provider"
        if target and (problem := provider_problem(registered.provider, target.tracking, field)):
            conditions.stalled(Reason.REGISTRY_PROVIDER_MISMATCH, problem)
            return Decision(status=status)

    # 5. The inspection.
    plan, mounts = inspection_of(observed)
    step = inspect(
        model.owner, model.status, observed.facts, plan, mounts, model.waiting_since, now
    )
    # 6. What was found must fit what was declared.
    if isinstance(step.result, Found) and (misfit := _misfit(spec, step.result.summary)):
        step = replace(step, result=misfit)
    return conclude(status, conditions, step, RESULT_FIELDS, _ready_message)


def _misfit(spec: ModelSpec, found: ModelInspectionDict) -> Refused | None:
    if found["type"] == "adapter" and spec.base_model_ref is None:
        return Refused(
            Reason.BASE_MODEL_NEEDED,
            f"this is an adapter of {found.get('baseModel') or 'an unnamed model'}:"
            " make a Model for that base and name it in spec.baseModelRef",
            found,
        )
    if found["type"] == "base" and spec.base_model_ref is not None:
        return Refused(
            Reason.BASE_MODEL_NOT_USED,
            f"spec.baseModelRef names {spec.base_model_ref.name}, but this is a whole model, not"
            " an adapter: remove baseModelRef",
            found,
        )
    return None


def _waits_for_job(observed: ObservedModel, conditions: Conditions) -> bool:
    spec = observed.model.spec
    if spec is None or spec.source.fine_tune_job is None:
        return False
    name, job = spec.source.fine_tune_job.name, observed.job
    if _kept_uri(observed.model):
        return False
    if job is None:
        conditions.waiting(
            Reason.JOB_MISSING,
            f"waiting for FineTuneJob {name}, named by spec.source.fineTuneJob.name",
        )
        return True
    if condition_is(job.status, ConditionType.FAILED):
        conditions.stalled(
            Reason.JOB_WITHOUT_OUTPUT, f"FineTuneJob {name} has failed and has no output"
        )
        return True
    if not condition_is(job.status, ConditionType.COMPLETE):
        conditions.waiting(Reason.JOB_NOT_COMPLETE, f"waiting for FineTuneJob {name} to complete")
        return True
    if job_output_uri(job) is None:
        conditions.stalled(
            Reason.JOB_WITHOUT_OUTPUT, f"FineTuneJob {name} is complete but left no model"
        )
        return True
    return False


def _waits_for_base(observed: ObservedModel, conditions: Conditions) -> bool:
    spec, base = observed.model.spec, observed.base
    if spec is None or spec.base_model_ref is None:
        return False
    name = spec.base_model_ref.name
    if base is None:
        conditions.waiting(
            Reason.MODEL_MISSING, f"waiting for Model {name}, named by spec.baseModelRef.name"
        )
        return True
    if not base.is_ready:
        conditions.waiting(
            Reason.MODEL_NOT_READY,
            f"waiting for Model {name} to be Ready; {base.why_not_ready}",
        )
        return True
    if base.status.get("type") != "base":
        conditions.stalled(
            Reason.BASE_MODEL_MISMATCH,
            f"spec.baseModelRef names {name}, which is an adapter itself: name its base model",
        )
        return True
    return False


def _ready_message(status: ModelStatusDict) -> str:
    return f"{status.get('type')} model, {status.get('architecture')}"
