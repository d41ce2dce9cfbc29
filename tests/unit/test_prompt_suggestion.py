"""Guesses from the names of columns."""

from __future__ import annotations

from typing import Any

import pytest
from kubetune.api.kinds.status_types import ColumnDict
from kubetune.decide.inspected.prompt_suggestion import suggest, suggestion_sentence


def columns(*names: str, **types: str) -> list[dict[str, Any]]:
    given = dict.fromkeys(names, "string") | types
    return [{"name": name, "type": kind} for name, kind in given.items()]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            columns("instruction", "input", "output"),
            {"prompt": "{instruction}\n\n{input}\n", "completion": "{output}"},
        ),
        (columns("Question", "Answer"), {"prompt": "{Question}\n", "completion": "{Answer}"}),
        (
            columns("id", "context", "question", "answer"),
            {
                "prompt": "{context}\n\n{question}\n",
                "completion": "{answer}",
                "leftOut": ["id"],
            },
        ),
        (
            columns("instruction", "context", "response", "category"),
            {
                "prompt": "{instruction}\n\n{context}\n",
                "completion": "{response}",
                "leftOut": ["category"],
            },
        ),
        (
            columns("prompt", "completion", label="bool"),
            {"format": "unpairedPreference"},
        ),
        (
            columns("question", "answer", is_correct="int"),
            {
                "format": "unpairedPreference",
                "columns": {"prompt": "question", "completion": "answer", "label": "is_correct"},
            },
        ),
        (
            columns("question", "answer", rating="int"),
            {"prompt": "{question}\n", "completion": "{answer}", "leftOut": ["rating"]},
        ),
        (
            columns("system", "prompt", "response"),
            {"prompt": "{system}\n\n{prompt}\n", "completion": "{response}"},
        ),
        (columns("article", "summary"), {"prompt": "{article}\n", "completion": "{summary}"}),
        (columns("input", "label"), {"prompt": "{input}\n", "completion": "{label}"}),
        (columns("text", "id"), {"format": "text"}),
        (columns("body"), {"format": "text", "columns": {"text": "body"}}),
        (
            columns("id", conversations="list"),
            {"format": "messages", "columns": {"messages": "conversations"}},
        ),
        (columns("id", talk="messages"), {"format": "messages", "columns": {"messages": "talk"}}),
        (columns("prompt", "chosen", "rejected"), {"format": "preference"}),
        (columns("conversations", "x"), None),
        (columns("a", "b"), None),
        (columns("question}", "answer"), None),
        ([], None),
    ],
)
def test_a_guess(given: list[ColumnDict], expected: dict[str, Any] | None) -> None:
    assert suggest(given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (columns("a", "b"), "has the columns a, b: their names allow no guess, so write"),
        (columns("question", "answer"), "copy its prompt and completion into spec"),
        (columns("body"), "set spec.format of the Dataset to text and spec.columns to text: body"),
        (columns("chosen", "rejected"), "to preference, and leave promptRef out"),
        (columns("question", "answer", "topic"), "it leaves out topic: add slots for what the"),
        (
            columns("question", "answer", rating="int"),
            "answers with a low rating train like all others",
        ),
        (
            columns("prompt", "response", good="bool"),
            "good seems to say which answers are good, and a template would train on the bad ones",
        ),
    ],
)
def test_what_to_write(given: list[ColumnDict], words: str) -> None:
    assert words in suggestion_sentence(suggest(given), given, "rows")
