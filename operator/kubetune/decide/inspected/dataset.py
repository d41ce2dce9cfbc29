"""Dataset: Ready once an inspection has read the source and found usable rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from kubetune.api.conditions import Reason
from kubetune.api.kinds.dataset.inline import (
    INLINE_ROWS,
    inline_fault,
    inline_rows_size,
    number_as_text,
)
from kubetune.api.kinds.dataset.sources import INLINE_LIMIT_BYTES
from kubetune.api.kinds.dataset.spec import Checks, DatasetSpec
from kubetune.api.kinds.inspection import DatasetInspection
from kubetune.api.kinds.status_types import DatasetInspectionDict, DatasetStatusDict
from kubetune.api.rows import FORMAT_ROLES, OPTIONAL_ROLES
from kubetune.api.run.plan import InspectionPlan
from kubetune.api.schema.errors import dotted
from kubetune.api.schema.suggestions import listed
from kubetune.decide.decision import DatasetDecision, Decision, conditions_of
from kubetune.decide.inspected.guard import concluded, delete
from kubetune.decide.inspected.inspection import Found, Refused
from kubetune.decide.inspected.row_checks import judge
from kubetune.decide.inspected.shared import InspectionFacts, conclude, identity, inspect
from kubetune.decide.resources import DatasetResource, ModelResource
from kubetune.decide.sources import Mounts, dataset_source, model_source

RESULT_FIELDS = tuple(field.alias or name for name, field in DatasetInspection.model_fields.items())


@dataclass(frozen=True)
class ObservedDataset:
    """A Dataset and what it depends on."""

    dataset: DatasetResource
    facts: InspectionFacts
    config_map_missing: bool = False
    tokenizer: ModelResource | None = None
    """The Model named by tokenizerRef, when it exists."""


def inspection_of(observed: ObservedDataset) -> tuple[InspectionPlan, Mounts]:
    """What must be read."""
    dataset = observed.dataset
    assert dataset.spec is not None
    plan, mounts = dataset_source(dataset.name, dataset.spec)
    model = None
    tokenizer = observed.tokenizer
    # The output of a job has its base's tokenizer; its place isn't known here.
    if tokenizer and tokenizer.spec and not tokenizer.spec.source.fine_tune_job:
        model, model_mounts = model_source(tokenizer.name, tokenizer.spec, tokenizer.status)
        mounts = mounts | model_mounts
    run = identity(dataset.owner, observed.facts.install_id)
    return InspectionPlan(kind="inspectDataset", run=run, dataset=plan, model=model), mounts


def decide(observed: ObservedDataset, now: datetime) -> DatasetDecision:
    """What to do for a Dataset."""
    dataset = observed.dataset
    if dataset.deleting:
        return delete(dataset, observed.facts, now)
    return concluded(dataset, observed.facts, _decide(observed, now))


def _decide(observed: ObservedDataset, now: datetime) -> DatasetDecision:
    dataset = observed.dataset
    conditions = conditions_of(dataset.status, dataset.generation, now)
    status: DatasetStatusDict = {
        "observedGeneration": dataset.generation,
        "conditions": conditions.current,
    }

    # 1. The spec can't be read, or holds what the schema can't measure.
    spec = dataset.spec
    if spec is None:
        conditions.stalled(Reason.INVALID_SPEC, dataset.problem)
        return Decision(status=status)
    status["source"] = spec.source.given.line
    if spec.source.inline and (size := inline_rows_size(spec.source.inline.rows)) > (
        INLINE_LIMIT_BYTES
    ):
        conditions.stalled(
            Reason.INLINE_TOO_LARGE,
            f"spec.source.inline.rows has {size:,} bytes, the limit is {INLINE_LIMIT_BYTES:,}:"
            " put the rows into a ConfigMap, a volume or behind an https address",
        )
        return Decision(status=status)

    if fault := inline_fault(spec):
        path, advice = fault
        conditions.stalled(Reason.INVALID_SPEC, f"{dotted((*INLINE_ROWS, *path))} {advice}")
        return Decision(status=status)

    # 2. What it names must exist.
    if observed.config_map_missing and spec.source.config_map:
        name = spec.source.config_map.name
        conditions.waiting(
            Reason.CONFIG_MAP_MISSING,
            f"waiting for ConfigMap {name}, named by spec.source.configMap.name",
        )
        return Decision(status=status)
    if spec.tokenizer_ref and (observed.tokenizer is None or not observed.tokenizer.is_ready):
        name = spec.tokenizer_ref.name
        reason = Reason.MODEL_NOT_READY if observed.tokenizer else Reason.MODEL_MISSING
        conditions.waiting(reason, f"waiting for Model {name}, named by spec.tokenizerRef")
        return Decision(status=status)

    # 3. The inspection.
    plan, mounts = inspection_of(observed)
    step = inspect(
        dataset.owner, dataset.status, observed.facts, plan, mounts, dataset.waiting_since, now
    )

    # 4. What it counted, by the policies of spec.checks, and columns that aren't there.
    found: DatasetInspectionDict | None = (
        step.result.summary if isinstance(step.result, Found) else None
    )
    refused = judge(spec.checks or Checks(), found, conditions)
    refused = (_column_problem(spec, found) if found is not None else None) or refused
    if refused and found is not None:
        step = replace(step, result=Refused(*refused, found))
    return conclude(
        status, conditions, step, RESULT_FIELDS, lambda found: _ready_message(spec, found)
    )


def _column_problem(spec: DatasetSpec, found: DatasetInspectionDict) -> tuple[str, str] | None:
    """Reason and sentence where spec.columns names a column that no row has."""
    if spec.columns is None or found.get("columnsTruncated"):
        return None
    columns = [column["name"] for column in found["columns"]]
    for role in (*FORMAT_ROLES[spec.format], *OPTIONAL_ROLES.get(spec.format, ())):
        name = spec.columns.of(role, columns)
        # Its own name is the default.
        if name != role and name not in columns:
            return Reason.COLUMN_MISSING, (
                f"spec.columns.{role} is {name!r}, which no row has; the columns are"
                f" {listed(columns)}: correct it"
            )
    return None


def _ready_message(spec: DatasetSpec, status: DatasetStatusDict) -> str:
    text = _counted(status)
    if path := number_as_text(spec):
        place = dotted((*INLINE_ROWS, *path))
        text += f"; {place} is a number, which YAML may have rewritten, as 1.10 to 1.1: quote it"
    return text


def _counted(status: DatasetStatusDict) -> str:
    rows = status.get("rows") or {"train": 0, "evaluation": 0}
    text = f"{rows['train']:,} rows to train on, {rows['evaluation']:,} held out"
    checks = status.get("checks")
    if checks is None:
        # Inspected before rows were checked.
        return text
    if checks.get("trainableRows") == 0:
        first = next((p for p in status.get("problems") or () if not p.get("row")), None)
        why = f": {first['message']}" if first else ""
        return f"{text}; none of them trains without a PromptTemplate{why}"
    empty, unusable = checks.get("emptyRows"), checks.get("unusableRows")
    faults = ((empty, "are empty"), (unusable, "don't fit the format"))
    left = [f"{count:,} {what}" for count, what in faults if count]
    return f"{text}; left out: {' and '.join(left)}, see status.problems" if left else text
