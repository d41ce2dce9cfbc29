"""Loss is computed on answers alone, and rows are cut or left out as said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubetune_runner.errors import RunError
from kubetune_runner.text.encoding import IGNORED, EncodedRow, encode
from kubetune_runner.text.prompts import Example

CHAT = Example(
    messages=[
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine."},
    ]
)


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def labelled(row: EncodedRow, tokenizer: Any) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORED])


def test_only_the_completion_and_the_end_are_learned(tokenizer: Any) -> None:
    [row] = encode([Example("The router", " is broken")], tokenizer, 100).rows
    assert labelled(row, tokenizer) == " is broken<eos>"
    assert tokenizer.decode(row.input_ids) == "<bos>The router is broken<eos>"
    assert row.prompt_ids == row.input_ids[: len(row.prompt_ids or [])]


def test_an_end_within_a_prompt_is_no_answer(tokenizer: Any) -> None:
    """Texts of several turns have the mark between them."""
    [row] = encode([Example("a<eos>", "b"), Example("c", "d<eos>")], tokenizer, 100).rows[:1]
    assert tokenizer.decode(row.input_ids) == "<bos>a<eos>b<eos>"
    assert labelled(row, tokenizer) == "b<eos>"
    [row] = encode([Example("c", "d<eos>")], tokenizer, 100).rows
    assert labelled(row, tokenizer) == "d<eos>"


def test_a_chat_that_begins_with_an_answer(tokenizer: Any) -> None:
    chat = Example(messages=[{"role": "assistant", "content": "Hello."}])
    [row] = encode([chat], tokenizer, 100).rows
    assert "Hello.<eos>" in labelled(row, tokenizer)
    assert row.reference == "Hello."


def test_a_prompt_that_merges_with_its_completion_keeps_its_own_tokens(tokenizer: Any) -> None:
    # "the" is one token, "t" and "he" are how generation sees it.
    [row] = encode([Example("t", "he")], tokenizer, 100).rows
    assert row.prompt_ids == tokenizer("t")["input_ids"]
    assert row.input_ids[: len(row.prompt_ids or [])] == row.prompt_ids
    assert labelled(row, tokenizer) == "he<eos>"


def test_text_is_learned_whole(tokenizer: Any) -> None:
    [row] = encode([Example(text="all of it")], tokenizer, 100).rows
    assert row.labels == row.input_ids
    assert row.prompt_ids is None


def test_a_chat_without_a_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(RunError) as caught:
        encode([CHAT], tokenizer, 100)
    assert caught.value.reason == "ChatTemplateMissing"


def test_rows_are_cut_counted_and_left_out(tokenizer: Any) -> None:
    examples = [
        Example("short", " a"),
        Example("short", " long answer" * 20),
        Example("a long prompt " * 20, "b"),
        Example("nothing", ""),
    ]
    encoded = encode(examples, tokenizer, 16)
    assert (len(encoded.rows), encoded.cut, encoded.cut_away, encoded.empty) == (2, 1, 1, 1)
    assert [len(row.input_ids) for row in encoded.rows][1] == 16
    assert all(len(row.input_ids) == len(row.labels) for row in encoded.rows)


def test_an_end_token_that_pads_is_still_learned(tiny_model: Path, tmp_path: Path) -> None:
    from kubetune.api.run.plan import ModelPlan
    from kubetune.api.run.training_plan import TokenizerPlan
    from kubetune_runner.model import loading
    from transformers import AutoTokenizer

    stripped: Any = AutoTokenizer.from_pretrained(tiny_model)
    stripped.pad_token = None
    stripped.save_pretrained(tmp_path)
    plan = ModelPlan.model_validate({"name": "m", "directory": str(tmp_path)})
    assert loading.load_tokenizer(plan, tmp_path).pad_token == "<pad>", "it is reserved for that"
    tokenizer = loading.load_tokenizer(plan, tmp_path, TokenizerPlan(pad_token="<eos>"))
    assert tokenizer.pad_token == tokenizer.eos_token
    [row] = encode([Example("p", " c")], tokenizer, 100).rows
    assert row.labels[-1] == tokenizer.eos_token_id
