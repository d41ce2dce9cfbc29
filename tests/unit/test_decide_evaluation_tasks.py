"""Harness tasks of an Evaluation: what is waited for, refused, and told to the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import DATASET_FOUND, condition_of, dataset, ready, ready_reason
from evaluation_objects import decided, evaluation, not_found, observed
from kubetune.decide.decision import StartRun
from kubetune.decide.evaluation.observed import ObservedEvaluation

OWN: dict[str, Any] = {"name": "capitals", "task": "capitals", "configMapRef": {"name": "tasks"}}
BROUGHT: dict[str, Any] = {
    "name": "arcEasy",
    "task": "arc_easy",
    "metric": "acc_norm",
    "fewShot": 5,
    "limit": 100,
    "chatTemplate": True,
}
TEXT = ready(dataset({"format": "text"}), **DATASET_FOUND | {"columns": [{"name": "text"}]})
FILES = {"tasks": {"capitals.yaml": "task: capitals", "rows.jsonl": "{}"}}


def given(tasks: list[dict[str, Any]], **around: Any) -> ObservedEvaluation:
    metrics = ["loss", *(task["name"] for task in tasks)]
    return observed(evaluation("base", tasks=tasks, metrics=metrics), **around)


def plan(found: ObservedEvaluation) -> dict[str, Any]:
    (start,) = (a for a in decided(not_found(found)).actions if isinstance(a, StartRun))
    return start.request.plan


def test_tasks_travel_in_the_plan_with_their_files() -> None:
    found = plan(given([BROUGHT, OWN], task_files=FILES))
    assert found["metrics"] == ["loss", "bitsPerByte"]
    assert found["tasks"] == [
        BROUGHT | {"lowerIsBetter": False},
        {
            "name": "capitals",
            "task": "capitals",
            "chatTemplate": False,
            "lowerIsBetter": False,
            "files": FILES["tasks"],
        },
    ]
    other = {"tasks": {**FILES["tasks"], "rows.jsonl": "{1}"}}
    assert plan(given([BROUGHT, OWN], task_files=other))["digest"] != found["digest"]


def test_the_files_of_a_task_are_waited_for() -> None:
    decision = decided(given([OWN]))
    assert ready_reason(decision) == ("False", "ConfigMapMissing")
    assert "ConfigMap tasks, which has the files of task capitals" in str(decision.status)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"rows.jsonl": "{}"}, "no key that ends in .yaml"),
        ({"a.yaml": "x" * 131_073}, "have 131,073 characters, the limit is 131,072"),
    ],
)
def test_files_that_cannot_be_a_task_are_refused(files: dict[str, str], words: str) -> None:
    decision = decided(given([OWN], task_files={"tasks": files}))
    assert condition_of(decision.status, "Stalled") == ("True", "InputsRefused")
    assert words in str(decision.status["conditions"])


def test_files_that_change_meanwhile_end_it() -> None:
    begun = not_found(given([OWN], task_files=FILES))
    status = decided(begun).status
    changed = replace(
        begun,
        evaluation=replace(begun.evaluation, status=status),
        task_files={"tasks": {"capitals.yaml": "task: other"}},
    )
    assert condition_of(decided(changed).status, "Failed") == ("True", "DatasetChanged")


def test_a_task_needs_no_references_in_the_rows() -> None:
    assert plan(given([BROUGHT], dataset=TEXT))["tasks"][0]["name"] == "arcEasy"
