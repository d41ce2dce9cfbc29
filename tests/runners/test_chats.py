"""Loss on the assistant's turns alone, whatever the chat template does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.training_plan import TokenizerPlan
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune_runner.errors import RunError
from kubetune_runner.model import loading
from kubetune_runner.text.chats import IGNORED, label_answers, last_answer
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Still fine."},
]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain in Bern?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"at": "Bern"}}}
        ],
    },
    {"role": "tool", "content": "dry"},
    {"role": "assistant", "content": "No."},
]

# In the manner of templates that are around, none of which has markers.
ENDS_BY_HEADER = (
    "{{ bos_token }}{% for m in messages %}{{ '<|h|>' + m.role + '<|/h|>\n\n' + m.content | trim"
    " + '<eot>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}"
    "{% endif %}"
)
THINKS_IN_THE_LAST_TURN = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<im>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{{ m.content + '</im>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<im>assistant\n' }}{% endif %}"
)
PROMPT_THAT_THINKS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<U>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<A>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}"
)
SYSTEM_BY_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<s>You help.</s>' }}{% endif %}"
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '</s>' }}{% endfor %}"
)
LEAVES_ANSWERS_OUT = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' and not loop.last"
    " %}{{ 'short' }}{% else %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
ENDS_WITH_THE_CHAT = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% else %}{{ eos_token }}{% endif %}"
)
"""As Phi-3's; the next turn begins with a character of the end token."""
MARKED = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ 'short' if not loop.last else m.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def learned(
    tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
) -> list[str]:
    """The pieces of text that loss is computed on."""
    ids, labels = label_answers(messages, tokenizer, tools)
    assert len(ids) == len(labels)
    pieces: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORED:
            pieces[-1].append(label)
        elif pieces[-1]:
            pieces.append([])
    return [tokenizer.decode(piece) for piece in pieces if piece]


LEARNED: list[tuple[str | None, list[str]]] = [
    (None, ["Fine.<eos>", "Still fine.<eos>"]),
    (ENDS_BY_HEADER, ["Fine.<eot>", "Still fine.<eot>"]),
    (
        THINKS_IN_THE_LAST_TURN,
        ["Fine.</im>\n", "<think>\n\n</think>\n\nStill fine.</im>\n"],
    ),
    (PROMPT_THAT_THINKS, ["Fine.<eos>", "Still fine.<eos>"]),
    (LEAVES_ANSWERS_OUT, ["Still fine.<eos>"]),
    (MARKED, ["short<eos>", "Still fine.<eos>"]),
    (ENDS_WITH_THE_CHAT, ["Fine.</s>", "Still fine.</s><eos>"]),
    # Without a prompt for generation the model begins its turn itself.
    (SYSTEM_BY_DEFAULT, ["<assistant>Fine.</s>", "<assistant>Still fine.</s>"]),
]
"""Templates, and what is learned of ``CHAT``."""


@pytest.mark.parametrize(("template", "expected"), LEARNED)
def test_the_assistants_turns_are_learned_and_nothing_else(
    tokenizer: Any, template: str | None, expected: list[str]
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    assert learned(tokenizer, CHAT) == expected
    prompt, reference = last_answer(CHAT, tokenizer)
    assert reference == "Still fine."
    assert "And now?" in prompt
    assert "Still" not in prompt


@pytest.mark.parametrize(("template", "expected"), LEARNED)
def test_a_turn_without_weight_is_shown_and_not_learned(
    tokenizer: Any, template: str | None, expected: list[str]
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    answers = [at for at, turn in enumerate(CHAT) if turn["role"] == "assistant"]
    shown = label_answers(CHAT, tokenizer)[0]
    for number, other in ((0, "Still fine."), (1, "Fine.")):
        chat = [dict(turn) for turn in CHAT]
        chat[answers[number]]["weight"] = 0
        assert label_answers(chat, tokenizer)[0] == shown
        # One template leaves the first answer out.
        kept = [text for at, text in enumerate(expected, 2 - len(expected)) if at != number]
        assert learned(tokenizer, chat) == kept
        assert last_answer(chat, tokenizer)[1] == other


def test_rows_are_weighed_as_files_have_them(make_plan: PlanFactory) -> None:
    said = {"role": "assistant", "content": "yes"}
    asked = {"role": "user", "content": "well?"}
    rows = [
        {"messages": [asked, said | {"weight": 0}, asked, said | {"content": "no", "weight": 1}]},
        # As Parquet has it where others have none.
        {"messages": [asked, said, asked, said | {"content": "no", "weight": 0.0}]},
        {"messages": [asked, said | {"weight": 0}]},
    ]
    inputs = prepare(make_plan(rows=rows, held_out=rows, dataset={"format": "messages"}))
    assert [row.reference for row in inputs.evaluation.rows] == ["no", "yes"]
    for row in inputs.evaluation.rows:
        text = inputs.tokenizer.decode([label for label in row.labels if label != IGNORED])
        assert text.startswith(row.reference)
        assert ("yes" in text) + ("no" in text) == 1
    assert (inputs.train.empty, inputs.train.hidden) == (1, 0)


def test_an_answer_that_begins_the_chat(tokenizer: Any) -> None:
    tokenizer.chat_template = SYSTEM_BY_DEFAULT
    chat = [{"role": "assistant", "content": "Hello"}, *CHAT[1:]]
    assert learned(tokenizer, chat)[0].endswith("Hello</s>")
    assert len(learned(tokenizer, chat)) == 3


@pytest.mark.parametrize("name", list(CHAT_TEMPLATES))
def test_own_templates_end_every_answer_with_the_end_token(tokenizer: Any, name: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATES[name]
    first, second = (text.strip() for text in learned(tokenizer, CHAT))
    assert first.startswith("Fine.")
    assert second.startswith("Still fine.")
    assert first.endswith("<eos>")
    assert second.endswith("<eos>")
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text.count("<bos>") == 1
    assert "Be brief." in text


@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_tools_and_their_calls_are_rendered_and_calls_learned(tokenizer: Any, name: Any) -> None:
    tokenizer.chat_template = CHAT_TEMPLATES[name]
    first, second = learned(tokenizer, CALLS, [WEATHER])
    assert '"name": "weather"' in first
    assert '"at": "Bern"' in first
    assert second.startswith("No.")
    assert '"parameters"' in last_answer(CALLS, tokenizer, [WEATHER])[0]


@pytest.mark.parametrize(
    ("template", "messages", "tools", "words"),
    [
        (ENDS_BY_HEADER, CHAT, [WEATHER], "the list of tools"),
        (ENDS_BY_HEADER, CALLS, None, "leaves weather out"),
        (CHAT_TEMPLATES["gemma"], CALLS, None, "refuses the data"),
    ],
)
def test_a_template_that_would_lose_tools_is_refused(
    tokenizer: Any, template: str, messages: list[dict[str, Any]], tools: Any, words: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(RunError) as caught:
        label_answers(messages, tokenizer, tools)
    assert caught.value.reason == "ChatTemplateUnsupported"
    assert words in caught.value.message


def test_a_tokenizer_without_offsets_labels_piece_by_piece(tokenizer: Any) -> None:
    class Slow:
        """The tokenizer as one that isn't fast."""

        is_fast = False

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, *texts: Any, **options: Any) -> Any:
            return tokenizer(*texts, **options)

    assert learned(Slow(), CHAT) == ["Fine.<eos>", "Still fine.<eos>"]


def test_a_template_is_stored_with_the_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    from kubetune.api.run.plan import ModelPlan
    from transformers import AutoTokenizer

    plan = ModelPlan.model_validate({"name": "m", "directory": str(tiny_model)})
    change = TokenizerPlan(pad_token="<eos>", chat_template=CHAT_TEMPLATES["chatml"])
    loading.load_tokenizer(plan, tiny_model, change).save_pretrained(tmp_path)
    stored: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert stored.chat_template == CHAT_TEMPLATES["chatml"]
    assert stored.pad_token == "<eos>"
    with pytest.raises(RunError) as caught:
        loading.load_tokenizer(plan, tiny_model, TokenizerPlan(pad_token="<nowhere>"))
    assert caught.value.reason == "PadTokenUnknown"
