"""PromptTemplate: Ready once its slots are known to exist, and a sample is rendered if asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from kubetune.api.conditions import Reason
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec, template_slots
from kubetune.api.kinds.status_types import DatasetStatusDict, PromptTemplateStatusDict
from kubetune.api.run.plan import InspectionPlan
from kubetune.api.schema.suggestions import listed
from kubetune.decide.decision import Decision, PromptTemplateDecision, conditions_of
from kubetune.decide.inspected.guard import concluded, delete
from kubetune.decide.inspected.inspection import Found
from kubetune.decide.inspected.prompt_suggestion import suggest, suggestion_sentence
from kubetune.decide.inspected.shared import InspectionFacts, conclude, identity, inspect
from kubetune.decide.resources import DatasetResource, PromptTemplateResource
from kubetune.decide.sources import Mounts, dataset_source, prompt_plan


@dataclass(frozen=True)
class ObservedPromptTemplate:
    """A PromptTemplate and the Dataset that it names."""

    template: PromptTemplateResource
    facts: InspectionFacts
    dataset: DatasetResource | None = None


def unknown_slots(spec: PromptTemplateSpec, dataset_status: DatasetStatusDict) -> list[str]:
    """Slots that no column of a ready Dataset has; none when its columns are cut short."""
    if dataset_status.get("columnsTruncated"):
        return []
    columns = {column["name"] for column in dataset_status.get("columns") or ()}
    return [slot for slot in template_slots(spec) if slot not in columns]


def slot_problem(
    spec: PromptTemplateSpec, dataset_name: str, dataset_status: DatasetStatusDict
) -> str | None:
    """A sentence about slots that no column has."""
    unknown = unknown_slots(spec, dataset_status)
    if not unknown:
        return None
    columns = listed(column["name"] for column in dataset_status.get("columns") or ())
    named = ", ".join(f"{{{slot}}}" for slot in unknown)
    text = f"{named}: no such column in Dataset {dataset_name}; its columns are {columns}"
    if any(not re.fullmatch(r"[\w .-]+", slot) for slot in unknown):
        # It looks like JSON or code, not like the name of a column.
        text += ". Braces that belong to the text are written {{ and }}"
    return text


def inspection_of(observed: ObservedPromptTemplate) -> tuple[InspectionPlan, Mounts]:
    """What must be rendered."""
    template, dataset = observed.template, observed.dataset
    assert template.spec is not None
    assert dataset is not None
    assert dataset.spec is not None
    rows, mounts = dataset_source(dataset.name, dataset.spec, dataset.status)
    run = identity(template.owner, observed.facts.install_id)
    plan = InspectionPlan(
        kind="renderPrompt", run=run, dataset=rows, prompt=prompt_plan(template.spec)
    )
    return plan, mounts


def decide(observed: ObservedPromptTemplate, now: datetime) -> PromptTemplateDecision:
    """What to do for a PromptTemplate."""
    template = observed.template
    if template.deleting:
        return delete(template, observed.facts, now)
    return concluded(template, observed.facts, _decide(observed, now))


def _decide(observed: ObservedPromptTemplate, now: datetime) -> PromptTemplateDecision:
    template, dataset = observed.template, observed.dataset
    conditions = conditions_of(template.status, template.generation, now)
    status: PromptTemplateStatusDict = {
        "observedGeneration": template.generation,
        "conditions": conditions.current,
    }

    # 1. The spec can't be read.
    spec = template.spec
    if spec is None:
        conditions.stalled(Reason.INVALID_SPEC, template.problem)
        return Decision(status=status)
    status["slots"] = template_slots(spec)[:200]

    # 2. Without a Dataset there is nothing to check; a FineTuneJob will.
    if spec.dataset_ref is None:
        conditions.ready(Reason.READY, "slots are checked against the Dataset of each job")
        return Decision(status=status)

    # 3. The Dataset must be there and have the columns.
    name = spec.dataset_ref.name
    if dataset is None:
        conditions.waiting(
            Reason.DATASET_MISSING, f"waiting for Dataset {name}, named by spec.datasetRef.name"
        )
        return Decision(status=status)
    if not dataset.is_ready:
        conditions.waiting(
            Reason.DATASET_NOT_READY,
            f"waiting for Dataset {name} to be Ready; {dataset.why_not_ready}",
        )
        return Decision(status=status)
    if spec.prompt is None and spec.messages is None:
        columns = dataset.status.get("columns") or []
        suggestion = suggest(columns)
        if suggestion:
            status["suggestion"] = suggestion
        message = suggestion_sentence(suggestion, columns, name)
        conditions.stalled(Reason.TEMPLATE_MISSING, message)
        return Decision(status=status)
    if problem := slot_problem(spec, name, dataset.status):
        conditions.stalled(Reason.SLOT_UNKNOWN, problem)
        return Decision(status=status)
    if not spec.sample:
        conditions.ready(Reason.READY, f"all slots are columns of Dataset {name}")
        return Decision(status=status)

    # 4. A sample was asked for.
    plan, mounts = inspection_of(observed)
    step = inspect(
        template.owner, template.status, observed.facts, plan, mounts, template.waiting_since, now
    )
    if isinstance(step.result, Found):
        summary = step.result.summary
        status["sample"] = summary.get("sample") or {
            "prompt": summary["prompt"],
            "completion": summary["completion"],
        }
    return conclude(status, conditions, step, (), lambda _: "a sample row is rendered")
