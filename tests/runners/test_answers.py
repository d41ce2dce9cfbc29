"""What ends an answer, and what of a turn is the answer, follow from the template that trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune_runner.answering.generation import Ways, generate, ways
from kubetune_runner.answering.model import FineTunedModel
from kubetune_runner.answering.shape import read
from kubetune_runner.results import save_results
from kubetune_runner.text.answers import shape_of
from kubetune_runner.text.chats import label_answers
from kubetune_runner.text.encoding import encode
from kubetune_runner.text.prompts import Example
from kubetune_runner.training.held_out import evaluate

from tests.runners import architectures
from tests.runners.conftest import PlanFactory
from tests.runners.fitting import fitted
from tests.runners.test_chats import CALLS, PROMPT_THAT_THINKS, WEATHER

IM = "<|im_start|>", "<|im_end|>"
QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + (m.reasoning_content or '')"
    " + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '<tool_call>\n' + ({'name':"
    " c.function.name, 'arguments': c.function.arguments} | tojson) + '\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EMPTY_BLOCK = QWEN.replace("(m.reasoning_content or '')", "''")
LLAMA = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' + m.content | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
WITHOUT_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEMPLATES = {
    "a token that isn't the end token": QWEN,
    "an empty block of thoughts": EMPTY_BLOCK,
    "another token": LLAMA,
    "no end": WITHOUT_END,
    "marks that the tokenizer doesn't know": CHAT_TEMPLATES["gemma"],
    "plain": CHAT_TEMPLATES["plain"],
}
QUESTIONS = {"red": "Rome", "blue": "Paris", "green": "Bern", "black": "Oslo"}


def chats(thinks: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Which town is {colour}?"},
                {"role": "assistant", "content": town}
                | ({"reasoning_content": f"{colour} it is"} if thinks else {}),
            ]
        }
        for colour, town in QUESTIONS.items()
    ]


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose tokenizer knows marks of turns, and another end token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "base"
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": [*IM, "<|eot_id|>"]})
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    # Whatever it is there for, it isn't what was asked for.
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.training
@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("case", TEMPLATES)
def test_what_was_learned_is_answered_and_ends(
    make_plan: PlanFactory, base: Path, case: str, thinks: bool
) -> None:
    """By training's own check, by the folder through pyfunc, and by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    template = TEMPLATES[case]
    if thinks and "reasoning_content" not in template:
        pytest.skip("the template takes no thoughts")
    plan = make_plan(
        rows=chats(thinks) * 8,
        held_out=chats(thinks),
        model={"directory": str(base)},
        dataset={"format": "messages"},
        training={
            "method": "full",
            "lora": None,
            "tokenizer": {"chatTemplate": template},
            "hyperparameters": {
                "maxSteps": 120 if case == "no end" else 80,
                "learningRate": 0.003,
                "perDeviceBatchSize": 8,
            },
            "checkpoint": {"everySteps": 100},
            "evaluation": {"maxRows": 4, "maxNewTokens": 40},
        },
    )
    trainer, inputs = fitted(plan)
    found = evaluate(
        trainer, inputs.tokenizer, inputs.evaluation.rows, plan.training.evaluation, None
    )
    assert list(found.answers) == list(QUESTIONS.values())
    assert found.metrics["exact_match"] == 1

    saved = save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=True).result
    pyfunc = FineTunedModel()
    context = type("Context", (), {"artifacts": {"model": str(saved)}, "model_config": {}})()
    pyfunc.load_context(context)
    asked = [row["messages"][0]["content"] for row in chats()]
    assert pyfunc.predict(context, asked) == list(QUESTIONS.values())

    shape = shape_of(inputs.tokenizer, chat=True)
    if not shape.end_tokens and shape.end_text:
        return
    # As a server reads it: generation_config.json and the tokenizer, nothing of ours.
    model: Any = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer: Any = AutoTokenizer.from_pretrained(saved)
    prompt = tokenizer.apply_chat_template(
        chats()[0]["messages"][:1],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    model.generation_config.repetition_penalty = 1.0
    output = model.generate(**prompt, do_sample=False, max_new_tokens=40)
    assert output.shape[1] - prompt["input_ids"].shape[1] < 40


def tokenizer_of(folder: Path, template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def test_the_end_of_an_answer_is_that_of_the_template(base: Path, tiny_model: Path) -> None:
    for template, end in ((QWEN, "<|im_end|>"), (LLAMA, "<|eot_id|>"), (None, "<eos>")):
        tokenizer = tokenizer_of(base, template or tokenizer_of(base, "").chat_template)
        if template is None:
            tokenizer = tokenizer_of(tiny_model, CHAT_TEMPLATES["plain"])
        shape = shape_of(tokenizer, chat=True)
        assert tokenizer.convert_ids_to_tokens(list(shape.end_tokens)) == [end]
        assert shape.end_text == ""
    # Marks that are no tokens are text before the end token.
    shape = shape_of(tokenizer_of(tiny_model, CHAT_TEMPLATES["chatml"]), chat=True)
    assert shape.end_text == "<|im_end|>"
    assert shape_of(tokenizer_of(base, QWEN), chat=False).end_tokens == ()


def test_a_turn_without_an_end_gets_the_end_token(base: Path) -> None:
    tokenizer = tokenizer_of(base, WITHOUT_END)
    (row,) = encode([Example(messages=chats()[0]["messages"])], tokenizer, 100).rows
    assert row.labels[-1] == row.input_ids[-1] == tokenizer.eos_token_id


def test_an_answer_behind_a_space_is_learned_from_its_first_token(base: Path) -> None:
    tokenizer = tokenizer_of(base, WITHOUT_END)
    (row,) = encode([Example(messages=chats()[0]["messages"])], tokenizer, 100).rows
    assert row.prompt_ids is not None
    assert row.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    first = row.labels[len(row.prompt_ids) :]
    assert tokenizer.decode(first) == "Rome\n<eos>"


@pytest.mark.parametrize("template", [QWEN, EMPTY_BLOCK, PROMPT_THAT_THINKS, LLAMA])
@pytest.mark.parametrize("inline", [False, True])
def test_answer_and_reference_are_the_same_view(base: Path, template: str, inline: bool) -> None:
    tokenizer = tokenizer_of(base, template)
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nRome" if inline else "Rome"},
    ]
    (row,) = encode([Example(messages=messages)], tokenizer, 100).rows
    said = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label >= 0]
    end = shape_of(tokenizer, chat=True).end_tokens[0]
    (answer,) = read(tokenizer, [said[: said.index(end)]], shape_of(tokenizer, chat=True))
    assert answer == row.reference
    if not inline or "</think>" in template:
        assert answer == "Rome"


@pytest.mark.parametrize("template", [QWEN, CHAT_TEMPLATES["plain"], CHAT_TEMPLATES["chatml"]])
def test_calls_of_tools_are_the_same_view(base: Path, template: str) -> None:
    tokenizer = tokenizer_of(base, template)
    messages = [*CALLS[:1], CALLS[1]]
    (row,) = encode([Example(messages=messages, tools=[WEATHER])], tokenizer, 500).rows if (
        template != QWEN
    ) else encode([Example(messages=messages)], tokenizer, 500).rows  # fmt: skip
    said = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label >= 0]
    (answer,) = read(tokenizer, [said], shape_of(tokenizer, chat=True))
    assert answer == row.reference
    assert json.loads(answer) == {"name": "weather", "arguments": {"at": "Bern"}}


def test_thoughts_are_given_to_a_template_that_takes_them(base: Path) -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        tokenizer = tokenizer_of(base, QWEN.replace("reasoning_content", name))
        messages = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "Rome", "reasoning_content": "so it is"},
        ]
        ids, labels = label_answers(messages, tokenizer)
        learned = tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label >= 0])
        assert learned.startswith("<think>\nso it is\n</think>\n\nRome")


@pytest.mark.training
def test_generation_is_what_was_asked_for(base: Path, tiny_model: Path) -> None:
    """A penalty, or what else generation_config.json brings, changes nothing."""
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_of(tiny_model, "")
    prompts = [tokenizer("Return the name of the")["input_ids"], tokenizer("It is")["input_ids"]]
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    options: dict[str, Any] = {"batch": 2, "max_new_tokens": 12}
    expected = generate(model, tokenizer, prompts, **options)
    for name, value in (
        ("repetition_penalty", 5.0),
        ("no_repeat_ngram_size", 1),
        ("suppress_tokens", [answer[0] for answer in expected]),
        ("min_new_tokens", 12),
        ("num_beams", 3),
    ):
        setattr(model.generation_config, name, value)
        assert generate(model, tokenizer, prompts, **options) == expected, name
        assert getattr(model.generation_config, name) == value


@pytest.mark.training
@pytest.mark.parametrize("kind", ["rwkv", "recurrent_gemma", "llama", "gpt2", "mamba"])
def test_an_answer_is_the_same_beside_others(
    tiny_model: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    folder = architectures.make(kind, tiny_model, tmp_path / kind)
    tokenizer = tokenizer_of(tiny_model, "")
    texts = ("It is", "Return the name of the last file that was opened", "If", "None, or a list")
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    alone = [
        generate(model, tokenizer, [prompt], batch=1, max_new_tokens=10)[0] for prompt in prompts
    ]
    assert generate(model, tokenizer, prompts, batch=4, max_new_tokens=10) == alone
    found = ways(model, tokenizer)
    if kind in ("llama", "gpt2"):
        assert found == Ways(together=True, cache=True)
    if kind == "rwkv":
        assert not found.together
