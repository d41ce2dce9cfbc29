"""Odd chats: what trains, decoded again, has all that the row says, or the row is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_chats import BROKEN, TEMPLATES, Chat, chats, check, told
from odd_data import (
    DRAWN,
    MANY,
    UNHURRIED_SECONDS,
    Laboratory,
    json_document,
    json_lines,
    make_laboratory,
)

__all__ = ["make_laboratory"]


@st.composite
def files(draw: st.DrawFn) -> tuple[Any, ...]:
    """Chats, some of them no chats, in a file; and a chat template."""
    drawn: list[Chat | None] = []
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 5)):
            chat = draw(chats())
            drawn.append(chat)
            rows.append(chat.row)
        else:
            drawn.append(None)
            rows.append({"messages": draw(BROKEN)})
    suffix = draw(st.sampled_from(["json", "jsonl"]))
    content, numbers = draw(json_document(rows) if suffix == "json" else json_lines(rows))
    template = draw(st.sampled_from(["shows all", *TEMPLATES]))
    return drawn, numbers, suffix, content, template


def test_columns_beside_a_chat_are_told(laboratory: Laboratory) -> None:
    """As LLaMA-Factory's shape and OpenAI's older one have them."""
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]
    beside: list[Any] = [
        {"system": "Be brief."},
        {"functions": [{"name": "sky", "parameters": {}}]},
        {"system": None, "system_prompt": "", "functions": [], "tools": "[]", "id": 7},
    ]
    content = "".join(json.dumps({"conversations": turns} | each) + "\n" for each in beside)
    for tools, expected in (("tools", {1, 2}), ("functions", {1})):
        found = laboratory.find(
            content.encode(),
            dataset={"format": "messages", "columns": {"tools": tools}},
            template=TEMPLATES["shows all"],
        )
        found.check_agreed()
        assert told(found, "doesn't show") == expected
    assert "<tool>" in found.texts()[1][0]


@DRAWN
@given(drawn=files())
def test_chats(laboratory: Laboratory, drawn: tuple[Any, ...]) -> None:
    check(laboratory, drawn)


@pytest.mark.exhaustive
@pytest.mark.timeout(UNHURRIED_SECONDS)
@MANY
@given(drawn=files())
def test_many_chats(laboratory: Laboratory, drawn: tuple[Any, ...]) -> None:
    check(laboratory, drawn)
