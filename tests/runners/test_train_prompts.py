"""Rows become examples, or the run says which column is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from kubetune.api.run.plan import DatasetPlan, PromptPlan
from kubetune_runner.data.verdicts import Fault
from kubetune_runner.errors import RunError
from kubetune_runner.text.prompts import Example, chosen, make_examples


def dataset(format: str = "promptCompletion", **columns: str) -> DatasetPlan:
    return DatasetPlan.model_validate(
        {
            "name": "d",
            "files": {"directory": "/d", "glob": "*", "format": "jsonl"},
            "format": format,
            "columns": columns,
            "splits": {},
        }
    )


def prompt(**document: Any) -> PromptPlan:
    return PromptPlan.model_validate(document)


@pytest.mark.parametrize(
    ("row", "plan", "template", "expected"),
    [
        ({"prompt": "a", "completion": 7}, dataset(), None, Example("a", "7")),
        (
            {"q": "a", "a": None},
            dataset(prompt="q", completion="a"),
            None,
            Example(fault=Fault("a", "is empty", empty=True)),
        ),
        ({"text": "hi"}, dataset("text"), None, Example(text="hi")),
        (
            {"q": "1{2}"},
            dataset(),
            prompt(prompt="{{{q}}}", completion="{q}!"),
            Example("{1{2}}", "1{2}!"),
        ),
        (
            {"q": "x"},
            dataset(),
            prompt(messages=[{"role": "assistant", "content": "={q}"}]),
            Example(messages=[{"role": "assistant", "content": "=x"}]),
        ),
        (
            {"messages": [{"role": "assistant", "content": "u", "extra": 1}]},
            dataset("messages"),
            None,
            Example(messages=[{"role": "assistant", "content": "u"}]),
        ),
    ],
)
def test_a_row_becomes_an_example(
    row: dict[str, Any], plan: DatasetPlan, template: PromptPlan | None, expected: Example
) -> None:
    assert make_examples([row], plan, template) == [expected]


@pytest.mark.parametrize(
    ("row", "plan", "template", "reason", "words"),
    [
        ({"q": "a"}, dataset(), None, "ColumnMissing", "'prompt'"),
        ({"q": "a"}, dataset(), prompt(prompt="{r}", completion="{q}"), "ColumnMissing", "'r'"),
        ({"prompt": "a"}, dataset("preference"), None, "FormatUnsupported", "promptRef"),
    ],
)
def test_a_column_that_is_missing_is_named(
    row: dict[str, Any], plan: DatasetPlan, template: PromptPlan | None, reason: str, words: str
) -> None:
    with pytest.raises(RunError) as caught:
        make_examples([row], plan, template)
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("row", "plan", "words"),
    [
        ({"prompt": ["a"], "completion": "b"}, dataset(), "'prompt' is a list"),
        ({"messages": "hello"}, dataset("messages"), "'messages' is a string"),
        ({"messages": [{"role": "user"}]}, dataset("messages"), "content isn't text"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "tools": ["x"]},
            dataset("messages"),
            "'tools' has a tool 1 without a name",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_why(
    row: dict[str, Any], plan: DatasetPlan, words: str
) -> None:
    (example,) = make_examples([row], plan, None)
    assert words in str(example.fault)
    assert example.unusable
    assert not example.empty


def test_a_cell_that_is_missing_is_as_one_that_is_null() -> None:
    template = prompt(prompt="{q}{context}", completion="{a}")
    rows = [{"q": "q", "context": "c", "a": "a"}, {"q": "r", "a": "b"}]
    assert make_examples(rows, dataset(), template)[1] == Example("r", "b")
    assert make_examples(rows[1:], dataset(), template, known=["context"]) == [Example("r", "b")]


@pytest.mark.parametrize(
    ("example", "empty"),
    [
        (Example("p", ""), True),
        (Example("p", " \n"), True),
        (Example("", "c"), False),
        (Example(text=""), True),
        (Example(messages=[{"role": "user", "content": "u"}]), True),
        (Example(messages=[{"role": "assistant", "content": "a"}]), False),
    ],
)
def test_an_example_without_an_answer_is_empty(example: Example, empty: bool) -> None:
    assert example.empty is empty


def test_a_fraction_keeps_the_order_and_at_least_one_row() -> None:
    half = chosen(100, 0.5, 1)
    assert len(half) == 50
    assert list(half) == sorted(half)
    assert chosen(100, 0.5, 1) == half
    assert chosen(100, 0.5, 2) != half
    assert len(chosen(1, 0.01, 1)) == 1
    assert list(chosen(100, 1.0, 1)) == list(range(100))
