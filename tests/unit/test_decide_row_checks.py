"""What follows from duplicate and leaked rows, by policy: one table of named cases."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import (
    DATASET_FOUND,
    NOW,
    assert_fits,
    condition_of,
    dataset,
    facts,
    kstatus,
    names,
    ready_reason,
    run,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.decide.inspected.dataset import ObservedDataset, decide

CLEAN: JsonObject = {
    "duplicateRows": 0,
    "leakedRows": 0,
    "leakedPrompts": 0,
    "emptyRows": 0,
    "longRows": 0,
    "longLimit": 2048,
}


@dataclass
class Case:
    name: str
    because: str
    counts: JsonObject | None
    checks: tuple[str, str] | None
    policies: JsonObject | None = None
    ready: tuple[str, str] = ("True", "Inspected")
    says: list[str] = field(default_factory=list[str])


CASES = [
    Case("clean", "nothing is wrong", {}, ("True", "RowsClean")),
    Case("inspected before", "the inspection of an earlier version counted nothing", None, None),
    Case(
        "leaked",
        "a warning by default",
        {"leakedRows": 3},
        ("False", "RowsLeaked"),
        says=["3 of 10 (30%) held-out rows"],
    ),
    Case(
        "prompts leaked",
        "a warning by default",
        {"leakedPrompts": 1},
        ("False", "PromptsLeaked"),
        says=["1 of 10 (10%)"],
    ),
    Case(
        "duplicates",
        "a warning by default",
        {"duplicateRows": 50},
        ("False", "RowsDuplicated"),
        says=["50 of 100 (50%) rows"],
    ),
    Case(
        "all at once",
        "the worst gives the reason, all are told",
        {"duplicateRows": 2, "leakedRows": 1, "leakedPrompts": 1},
        ("False", "RowsLeaked"),
        says=["also train", "another answer", "repeat"],
    ),
    Case(
        "unusable",
        "a warning by default; training leaves them out",
        {"unusableRows": 3},
        ("False", "RowsUnusable"),
        says=["3 of 100 (3%) rows don't fit", "left out: 3 don't fit the format"],
    ),
    Case(
        "unusable ones refused",
        "the user wants all rows to train",
        {"unusableRows": 3, "leakedRows": 1},
        ("False", "RowsUnusable"),
        {"unusable": "Refuse"},
        ("False", "RowsUnusable"),
        ["correct them, or set spec.checks.unusable to Warn"],
    ),
    Case(
        "hidden parts",
        "the model learns nothing from them",
        {"hiddenPartRows": 5},
        ("False", "PartsHidden"),
        says=["5 of 100 (5%) rows have parts that their training text doesn't show"],
    ),
    Case(
        "hidden parts refused",
        "only other rows or another model help",
        {"hiddenPartRows": 5},
        ("False", "PartsHidden"),
        {"hiddenParts": "Refuse"},
        ("False", "PartsHidden"),
        ["or set spec.checks.hiddenParts to Warn"],
    ),
    Case(
        "none trains as it is",
        "a PromptTemplate may make text of them, and the message says so",
        {"trainableRows": 0},
        ("True", "RowsClean"),
        says=["none of them trains without a PromptTemplate"],
    ),
    Case(
        "ignored",
        "the user wants it so",
        {"duplicateRows": 2},
        ("True", "RowsClean"),
        {"duplicates": "Ignore"},
    ),
    Case(
        "one ignored",
        "the other counts",
        {"duplicateRows": 2, "leakedRows": 1},
        ("False", "RowsDuplicated"),
        {"leakage": "Ignore"},
    ),
    Case(
        "refused",
        "only another source or policy helps",
        {"leakedRows": 1},
        ("False", "RowsLeaked"),
        {"leakage": "Refuse"},
        ("False", "RowsLeaked"),
        ["spec.checks.leakage to Warn"],
    ),
    Case(
        "the lesser is refused",
        "the refusal gives the reason",
        {"leakedRows": 1, "duplicateRows": 2},
        ("False", "RowsDuplicated"),
        {"duplicates": "Refuse"},
        ("False", "RowsDuplicated"),
        ["spec.checks.duplicates to Warn", "also train"],
    ),
    Case(
        "refused, but nothing found",
        "there is nothing to refuse",
        {},
        ("True", "RowsClean"),
        {"duplicates": "Refuse", "leakage": "Refuse", "promptLeakage": "Refuse"},
    ),
    Case(
        "empty and long",
        "training leaves them out or cuts them",
        {"emptyRows": 1, "longRows": 2},
        ("True", "RowsClean"),
        says=[
            "1 of 100 (1%) rows are empty and left out",
            "2 of 100 (2%) rows are longer than 2,048 tokens",
        ],
    ),
]


def decided(case: Case, **around: Any) -> Any:
    found = DATASET_FOUND | ({"checks": CLEAN | case.counts} if case.counts is not None else {})
    outcome = Outcome(status="succeeded", reason="Inspected", summary=found)
    spec = {"checks": case.policies} if case.policies else {}
    given = dataset(spec, **around)
    return decide(ObservedDataset(given, facts(runs=[run(1, "succeeded", outcome)])), NOW)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_row_checks(case: Case) -> None:
    decision = decided(case)
    status = decision.status
    assert condition_of(status, "ChecksPassed") == case.checks, case.because
    assert ready_reason(decision) == case.ready, case.because
    assert kstatus(status, 1) == ("Current" if case.ready[0] == "True" else "Failed")
    messages = " ".join(condition["message"] for condition in status["conditions"])
    assert all(text in messages for text in case.says), messages
    assert status["rows"] == DATASET_FOUND["rows"], "what was found is shown in any case"
    assert_fits("Dataset", status)


def test_another_policy_needs_no_other_inspection() -> None:
    refused = next(case for case in CASES if case.name == "refused")
    status = decided(refused).status
    again = decide(ObservedDataset(dataset(status=status), facts()), NOW)
    assert ready_reason(again) == ("True", "Inspected")
    assert condition_of(again.status, "ChecksPassed") == ("False", "RowsLeaked")
    assert names(again) == []
