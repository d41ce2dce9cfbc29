"""Odd chats: turns with every field that OpenAI's and ShareGPT's shapes know, and what they say.

A chat is drawn as what is said in it, and then written in one of the shapes: so what its text must
have is known without reading it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from odd_data import ODD_TEXTS, TEXTS, VALUES, Found, Laboratory, Row

END = "<eos>"
_CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + (c.function.arguments"
    " | tojson) + (c.id or '') }}{% endfor %}"
)
SHOWS_ALL = (
    "{% for t in tools or [] %}{{ '<tool>' + (t | tojson) }}{% endfor %}{% for m in messages %}"
    "{{ '[' + m.role + ':' + (m.name or '') + (m.tool_call_id or '') + ']' }}"
    "{% if m.role == 'assistant' %}"
    "{{ (m.reasoning_content or '') + '|' + m.content }}" + _CALLS + "{{ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant:]' }}{% endif %}"
)
"""All that a turn says, as it is."""
_THINKS = (
    "{% if '</think>' in m.content %}{% set said = m.content.split('</think>')[-1] %}"
    "{% else %}{% set said = m.content %}{% endif %}"
    "{% if loop.last %}{{ m.content }}{% else %}{{ said }}{% endif %}"
)
_MARKS = "{{ '<|' + m.role + '|>' }}"
_ASKS = "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
TEMPLATES = {
    "shows all": SHOWS_ALL,
    "plain": CHAT_TEMPLATES["plain"],
    "chatml": CHAT_TEMPLATES["chatml"],
    "gemma": CHAT_TEMPLATES["gemma"],
    "mistral": CHAT_TEMPLATES["mistral"],
    "no system": "{% for m in messages %}{% if m.role != 'system' %}" + _MARKS
    + "{{ m.content }}{% endif %}" + _ASKS,
    "names of calls": "{% for m in messages %}" + _MARKS + "{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}" + _ASKS,
    "the first call": "{% for m in messages %}" + _MARKS + "{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0] | tojson }}{% endif %}" + _ASKS,
    "the last question": "{% for m in messages %}{% if m.role == 'assistant' or"
    " loop.revindex <= 2 %}" + _MARKS + "{{ m.content }}{% endif %}" + _ASKS,
    "thoughts of the last turn": "{% for m in messages %}" + _MARKS + _THINKS + _ASKS,
    "JSON": "{% for m in messages %}" + _MARKS + "{{ m | tojson }}" + _ASKS,
    "trims": "{% for m in messages %}" + _MARKS + "{{ m.content | trim }}" + _ASKS,
}  # fmt: skip

WORDS = st.one_of(
    st.sampled_from(["yes", "no", "Paris is far.", "<think>a long way</think>near", "ok\nthen"]),
    st.sampled_from([text for text in ODD_TEXTS if text.strip()]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
)
EXTRAS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["Ann", ""]),
    "weight": st.sampled_from([0, 1, None]),
    "refusal": st.sampled_from([None, "I can't", ""]),
    "audio": st.sampled_from([None, {"id": "a1"}]),
    "annotations": st.sampled_from([None, [], [{"url": "x"}]]),
    "train": st.booleans(),
    "tool_call_id": st.sampled_from([None, "c9"]),
    "reasoning_details": st.sampled_from([None, [{"text": "hm"}]]),
    "thinking": st.sampled_from([None, "", "deep", ["deep"]]),
    "reasoning": st.sampled_from([None, "other deep"]),
    "from": st.sampled_from([None, "gpt", "human"]),
    "value": st.sampled_from([None, "something else"]),
    "function_call": st.sampled_from([None, {"name": "older", "arguments": "{}"}]),
}
"""Fields beside role and content that a turn may have."""


@dataclass
class Chat:
    """A row with a chat, and what it says."""

    row: Row
    said: list[str] = field(default_factory=list[str])
    """Texts that the training text must have."""
    learned: list[str] = field(default_factory=list[str])
    """Those that the loss is computed on."""
    odd: bool = False
    """Whether it has what may well be reported."""


@st.composite
def content(draw: st.DrawFn, text: str) -> Any:
    """A text as it is, or in parts."""
    if not draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(text)))
        return [{"type": "text", "text": text[:at]}, {"type": "text", "text": text[at:]}]
    return text


@st.composite
def call(draw: st.DrawFn, older: bool = False) -> tuple[Row, list[str]]:
    """A call, and what it says."""
    name = draw(st.sampled_from(["sky", "find_it", "sky"]))
    arguments = draw(st.dictionaries(st.sampled_from(["at", "überall", "n"]), VALUES, max_size=2))
    given: Any = arguments
    if older or draw(st.booleans()):
        given = json.dumps(arguments, ensure_ascii=draw(st.booleans()))
    said = [name, *arguments, *_leaves(arguments)]
    function = {"name": name, "arguments": given}
    return function, said


def _leaves(value: Any) -> list[str]:
    """Texts in a value, as JSON has them."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, str):
        return [json.dumps(value, ensure_ascii=False)[1:-1]]
    return [json.dumps(value)]


@st.composite
def chats(draw: st.DrawFn, tools: bool = True, odd: bool = True) -> Chat:
    """A chat of OpenAI's form or ShareGPT's; some say what tools there are, or have odd fields."""
    shared = draw(st.booleans())
    chat = Chat({})
    turns: list[Row] = []
    for system in draw(st.sampled_from([[], ["system"], ["developer"]])):
        text = draw(WORDS)
        chat.said.append(text)
        system = "system" if shared else system
        turns.append(
            {"from": system, "value": text}
            if shared
            else {"role": system, "content": draw(content(text))}
        )
    for _ in range(draw(st.integers(1, 3))):
        asked = draw(WORDS)
        chat.said.append(asked)
        turns.append(
            {"from": draw(st.sampled_from(["human", "user"])), "value": asked}
            if shared
            else {"role": "user", "content": draw(content(asked))}
        )
        if not draw(st.integers(0, 3)):
            _called(draw, chat, turns, shared)
        answer = draw(WORDS)
        chat.said.append(answer)
        chat.learned.append(answer)
        turn: Row = (
            {"from": draw(st.sampled_from(["gpt", "chatgpt", "assistant"])), "value": answer}
            if shared
            else {"role": "assistant", "content": draw(content(answer))}
        )
        if not draw(st.integers(0, 3)):
            thought = draw(st.sampled_from(["hm", "let me see", "yes"]))
            turn["reasoning_content"] = thought
            chat.said.append(thought)
            chat.learned.append(thought)
        turns.append(turn)
    for turn in turns:
        if odd and not draw(st.integers(0, 7)):
            _add(draw, chat, turn)
    name = draw(st.sampled_from(["messages", "conversations"])) if shared else "messages"
    chat.row = {name: turns} | draw(st.sampled_from([{}, {"id": 7}, {"score": None}]))
    if tools and not draw(st.integers(0, 3)):
        _offer(draw, chat)
    return chat


def _offer(draw: st.DrawFn, chat: Chat) -> None:
    """Tools that may be called, with their schema."""
    about = draw(st.sampled_from(["Looks at the sky", "« Où ? »", 'a "tool"']))
    parameters = draw(st.dictionaries(st.sampled_from(["type", "überall"]), TEXTS, max_size=2))
    function = {"name": "sky", "description": about, "parameters": parameters}
    offered: Any = [draw(st.sampled_from([function, {"type": "function", "function": function}]))]
    if draw(st.booleans()):
        offered = json.dumps(offered, ensure_ascii=draw(st.booleans()))
    chat.row["tools"] = offered
    chat.said += ["sky", *parameters, *_leaves(parameters), *_leaves(about)]


def _called(draw: st.DrawFn, chat: Chat, turns: list[Row], shared: bool) -> None:
    """A call of tools, and what they answer."""
    count = 1 if shared else draw(st.integers(1, 2))
    older = not shared and count == 1 and draw(st.booleans())
    made = [draw(call(older)) for _ in range(count)]
    for _, said in made:
        chat.said += said
        chat.learned += said
    functions = [function for function, _ in made]
    if shared:
        text = json.dumps(functions[0], ensure_ascii=False)
        turns.append({"from": "function_call", "value": text})
    elif older:
        turns.append({"role": "assistant", "content": None, "function_call": functions[0]})
    else:
        calls = [
            {"type": "function", "id": f"c{at}", "function": one}
            for at, one in enumerate(functions)
        ]
        turns.append({"role": "assistant", "content": None, "tool_calls": calls})
    for at, function in enumerate(functions):
        text = draw(WORDS)
        chat.said.append(text)
        if shared:
            turns.append(
                {
                    "from": draw(st.sampled_from(["observation", "function_response", "tool"])),
                    "value": text,
                }
            )
        elif older:
            turns.append({"role": "function", "name": function["name"], "content": text})
        else:
            turns.append({"role": "tool", "tool_call_id": f"c{at}", "content": text})


def _add(draw: st.DrawFn, chat: Chat, turn: Row) -> None:
    """One more field, and what it says; one that holds nothing says nothing."""
    name = draw(st.sampled_from(list(EXTRAS)))
    if name in turn:
        return
    value = turn[name] = draw(EXTRAS[name])
    chat.odd = True
    role = turn.get("role", turn.get("from"))
    calling = role == "function_call"
    assistant = calling or role in ("assistant", "gpt", "chatgpt")
    tool = role in ("tool", "observation", "function_response", "function")
    if value in (None, "", []) or (name == "tool_call_id" and tool):
        return
    if name == "from" and value == {"assistant": "gpt", "user": "human"}.get(str(role)):
        return
    if name == "weight" and assistant:
        # It says whether the turn is learned.
        return
    if name == "name" and tool:
        chat.said.append("Ann")
    elif name in ("thinking", "reasoning") and assistant and isinstance(value, str):
        # Beside another thought of the same turn, one of the two can't be shown.
        chat.said.append(value)
    elif name == "function_call" and assistant and not calling and "tool_calls" not in turn:
        chat.said.append("older")
    else:
        chat.said.append(f"{name}={value!r}: stands in no text")


BROKEN = st.one_of(
    VALUES,
    st.lists(
        st.one_of(VALUES, st.fixed_dictionaries({"role": TEXTS, "content": VALUES})), max_size=3
    ),
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool", "system", "critic", ""])},
            optional={
                "content": VALUES,
                "tool_calls": VALUES,
                "function_call": VALUES,
                "reasoning_content": VALUES,
            },
        ),
        max_size=4,
    ),
)
"""Cells that are mostly no chat at all."""


def lost(said: list[str], text: str) -> list[str]:
    """What is said and isn't in the text as often as it is said, whatever stands around it."""
    parts = [part.strip() for part in said]
    return [
        part
        for part in dict.fromkeys(parts)
        if part and _count(part, text) < sum(part in other for other in parts)
    ]


def _count(part: str, text: str) -> int:
    quoted = json.dumps(part, ensure_ascii=False)[1:-1]
    return max(len(re.findall(f"(?={re.escape(each)})", text)) for each in (part, quoted))


def told(found: Found, words: str) -> set[int]:
    """Rows that a problem of the inspection names."""
    messages = [problem["message"] for problem in found.problems if words in problem["message"]]
    named = [re.findall(r"row (\d+)", message.rpartition("namely")[2]) for message in messages]
    return {int(number) for numbers in named for number in numbers}


def check(laboratory: Laboratory, drawn: tuple[Any, ...], columns: Row | None = None) -> None:
    """What trains has all that the rows say, or the row is told."""
    rows, numbers, suffix, content, template = drawn
    found = laboratory.find(
        content,
        suffix,
        dataset={"format": "messages", "columns": columns or {}},
        template=TEMPLATES[template],
    )
    if found.inspection.status == "failed":
        assert found.inspection.reason in ("NoUsableRows", "ColumnMissing")
        assert not any(chat and not chat.odd for chat in rows), found.inspection.message
        found.check_refused()
        return
    hidden, refused = told(found, "doesn't show"), told(found, "the chat template refuses")
    if found.refusal is not None:
        # Its first row is one that the inspection has named.
        assert found.refusal.reason == "ChatTemplateUnsupported", found.refusal
        place = re.match(r"row ([\d,]+) of file", found.refusal.message)
        assert place, found.refusal
        assert int(place[1]) in hidden | refused
        return
    assert not refused
    found.check_agreed()
    left_out = {p["row"] for p in found.problems if "left out" in p["message"] and p.get("row")}
    used = [
        (number, chat) for number, chat in zip(numbers, rows, strict=True) if number not in left_out
    ]
    assert len(used) == len(found.rows)
    for (number, chat), (text, learned) in zip(used, found.texts(), strict=True):
        if chat is None:
            continue
        gone = lost(chat.said, text)
        assert not gone or number in hidden, (gone, text)
        if template == "shows all" and not chat.odd:
            assert number not in hidden
            assert not lost(chat.learned, learned), learned
    if template == "shows all":
        wrong = [n for n, chat in zip(numbers, rows, strict=True) if chat and not chat.odd]
        assert not left_out & set(wrong)
