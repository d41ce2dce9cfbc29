"""What a PromptTemplate waits for: one table of named cases."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import (
    DATASET_FOUND,
    NOW,
    dataset,
    facts,
    kstatus,
    names,
    prompt,
    ready,
    ready_reason,
    resource,
    run,
)
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec
from kubetune.api.kinds.status_types import ColumnDict
from kubetune.api.run.outcome import Outcome
from kubetune.decide.inspected.prompt_template import ObservedPromptTemplate, decide, slot_problem
from kubetune.decide.resources import Resource

REF: dict[str, Any] = {"datasetRef": {"name": "tickets"}}
SAMPLE = REF | {"sample": True}
UNKNOWN = REF | {"prompt": "{question}"}
READY = ready(dataset(), **DATASET_FOUND)
RENDERED = Outcome(
    status="succeeded", reason="Rendered", summary={"prompt": "Q: a", "completion": "b"}
)


@dataclass
class Case:
    name: str
    because: str
    template: Resource[Any, Any]
    ready: tuple[str, str]
    verdict: str
    dataset: Resource[Any, Any] | None = None
    actions: list[str] = field(default_factory=list[str])
    runs: list[Any] = field(default_factory=list[Any])


CASES = [
    Case(
        "unreadable",
        "only the user can repair the spec",
        resource("PromptTemplate", "plain", None),
        ("False", "InvalidSpec"),
        "Failed",
    ),
    Case("alone", "each job checks the slots", prompt(), ("True", "Ready"), "Current"),
    Case(
        "no Dataset",
        "it may follow in the same manifest",
        prompt(REF),
        ("False", "DatasetMissing"),
        "InProgress",
    ),
    Case(
        "Dataset not ready",
        "its columns aren't known yet",
        prompt(REF),
        ("False", "DatasetNotReady"),
        "InProgress",
        dataset(),
    ),
    Case(
        "no templates",
        "nobody trains on a guess: it must be copied",
        resource("PromptTemplate", "plain", REF),
        ("False", "TemplateMissing"),
        "Failed",
        READY,
    ),
    Case("slots fit", "all slots are columns", prompt(REF), ("True", "Ready"), "Current", READY),
    Case(
        "slot unknown",
        "training would fail at the first row",
        prompt(UNKNOWN),
        ("False", "SlotUnknown"),
        "Failed",
        READY,
    ),
    Case(
        "columns cut short",
        "the slot may be among those that status doesn't list",
        prompt(UNKNOWN),
        ("True", "Ready"),
        "Current",
        ready(dataset(), **(DATASET_FOUND | {"columnsTruncated": True})),
    ),
    Case(
        "sample wanted",
        "a run renders it",
        prompt(SAMPLE),
        ("False", "Inspecting"),
        "InProgress",
        READY,
        ["StartRun"],
    ),
    Case(
        "sample rendered",
        "it is kept and the run not",
        prompt(SAMPLE),
        ("True", "Inspected"),
        "Current",
        READY,
        ["DeleteRuns"],
        [run(1, "succeeded", RENDERED)],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prompt_template(case: Case) -> None:
    observed = ObservedPromptTemplate(case.template, facts(runs=case.runs), case.dataset)
    decision = decide(observed, NOW)
    assert ready_reason(decision) == case.ready, case.because
    assert kstatus(decision.status or {}, 1) == case.verdict, case.because
    assert names(decision) == case.actions, case.because


def test_slots_and_sample_are_in_the_status() -> None:
    runs = [run(1, "succeeded", RENDERED)]
    observed = ObservedPromptTemplate(prompt(SAMPLE), facts(runs=runs), READY)
    status = decide(observed, NOW).status or {}
    assert status["slots"] == ["prompt", "completion"]
    assert status["sample"] == {"prompt": "Q: a", "completion": "b"}
    again = ObservedPromptTemplate(prompt(SAMPLE, status=status), facts(), READY)
    assert decide(again, NOW).status == status


def test_sample_no_longer_wanted_ends_its_run() -> None:
    first = ObservedPromptTemplate(prompt(SAMPLE), facts(), READY)
    status = decide(first, NOW).status or {}
    edited = prompt(REF, generation=2, status=status)
    decision = decide(ObservedPromptTemplate(edited, facts(), READY), NOW)
    assert names(decision) == ["DeleteRuns"]
    assert "inspection" not in (decision.status or {})


def test_deleted_template_is_left_alone() -> None:
    assert decide(ObservedPromptTemplate(prompt(deleting=True), facts()), NOW).status is None


def test_braces_of_json_and_names_with_spaces_are_explained() -> None:
    spec = PromptTemplateSpec(prompt="{question}", completion='{"answer": "{answer}"}')
    columns: list[ColumnDict] = [
        {"name": "question", "type": "string"},
        {"name": "answer ", "type": "string"},
    ]
    found = slot_problem(spec, "tickets", {"columns": columns})
    assert found is not None
    assert found.startswith("{answer}: no such column")
    assert "its columns are question, 'answer '" in found
    spec = PromptTemplateSpec(prompt="{question}", completion='{"answer": 1}')
    found = slot_problem(spec, "tickets", {"columns": columns})
    assert found is not None
    assert "are written {{ and }}" in found
