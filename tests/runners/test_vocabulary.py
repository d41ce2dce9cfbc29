"""Tokens without an embedding, and tokenizers in files of older kinds."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from inspection_fixtures import inspection_plan, model_files, write
from kubetune.api.run.plan import ModelPlan
from kubetune_runner import evaluate
from kubetune_runner.answering.model import FineTunedModel
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import candidate, harness, rows
from kubetune_runner.inspection import run
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import describe
from kubetune_runner.model import loading
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import make_trainer
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory
from tests.runners.evaluation_fixtures import EvaluationFactory

ROWS = 32
"""Of the embeddings."""


def token(number: int, text: str) -> dict[str, Any]:
    return {"id": number, "content": text, "special": True}


def inspected(
    folder: Path, config: dict[str, Any], added: list[dict[str, Any]], older: bool
) -> Any:
    files = model_files(vocabulary=ROWS)
    if older:
        config = config | {"added_tokens_decoder": {str(one["id"]): one for one in added}}
    else:
        files["tokenizer.json"] = json.dumps({"added_tokens": added}).encode()
    files["tokenizer_config.json"] = json.dumps(config).encode()
    write(folder, files)
    return run(inspection_plan("inspectModel", model={"name": "m", "directory": str(folder)}))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("role", ["pad_token", "eos_token", "bos_token", "unk_token"])
def test_a_special_token_beyond_the_embeddings(tmp_path: Path, role: str, older: bool) -> None:
    config = {role: {"content": "[X]"}}
    outcome = inspected(tmp_path / "a", config, [token(ROWS, "[X]")], older)
    assert (outcome.status, outcome.reason) == ("failed", "TokenBeyondVocabulary")
    assert f"'[X]' ({role}) the number {ROWS}" in outcome.message
    assert f"{ROWS} rows" in outcome.message
    assert "resize_token_embeddings" in outcome.message
    fits = inspected(tmp_path / "b", config, [token(ROWS - 1, "[X]")], older)
    assert fits.status == "succeeded", fits.message


def test_other_tokens_count_where_the_template_has_them(tmp_path: Path) -> None:
    """A token for pictures of a larger sibling harms no text."""
    added = [token(ROWS, "<image>")]
    outcome = inspected(tmp_path / "a", {"pad_token": "<pad>"}, added, older=False)
    assert outcome.status == "succeeded", outcome.message
    config = {"chat_template": "<image>{{ messages }}"}
    outcome = inspected(tmp_path / "b", config, added, older=False)
    assert outcome.reason == "TokenBeyondVocabulary"
    assert "chat template" in outcome.message


@pytest.fixture
def with_picture(tmp_path: Path, tiny_model: Path) -> Path:
    """A model whose tokenizer has a token for which there is no embedding."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["<picture>"])
    tokenizer.save_pretrained(folder)
    return folder


PICTURES = [{"prompt": "a <picture>", "completion": "b"}]


def test_rows_with_a_token_without_embedding(make_plan: PlanFactory, with_picture: Path) -> None:
    plan = make_plan(rows=PICTURES, held_out=[], model={"directory": str(with_picture)})
    inputs = prepare(plan)
    with pytest.raises(RunError, match=r"'<picture>', number [\d,]+") as caught:
        make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    assert caught.value.reason == "TokenBeyondVocabulary"


def test_a_registered_model_refuses_a_token_without_embedding(with_picture: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(with_picture).eval()
    describe(
        AutoTokenizer.from_pretrained(with_picture),
        model.dtype,
        with_picture,
        chat=False,
        max_new_tokens=2,
    )
    loaded = FineTunedModel()
    loaded.load_context(SimpleNamespace(artifacts={"model": str(with_picture)}, model_config={}))
    assert len(loaded.predict(None, ["a"])) == 1
    with pytest.raises(ValueError, match=r"'<picture>', number [\d,]+.*leave the token out"):
        loaded.predict(None, ["a", "a <picture>"])


TASK = """
task: pictures
dataset_path: json
dataset_kwargs: {data_files: {test: pictures.jsonl}}
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "{{prompt}}"
"""
KINDS = {
    "generate_until": """
generation_kwargs: {until: ["|"], max_gen_toks: 2}
metric_list: [{metric: exact_match}]
""",
    "loglikelihood_rolling": """
metric_list: [{metric: word_perplexity}]
""",
}


@pytest.mark.usefixtures("plain_process")
@pytest.mark.parametrize("kind", KINDS)
def test_a_benchmark_with_a_token_without_embedding(
    make_evaluation: EvaluationFactory, with_picture: Path, kind: str
) -> None:
    files = {
        "pictures.yaml": f"{TASK}output_type: {kind}{KINDS[kind]}",
        "pictures.jsonl": json.dumps(PICTURES[0]) + "\n",
    }
    task = {"name": "pictures", "task": "pictures", "files": files}
    plan = make_evaluation(metrics=[], tasks=[task], model={"directory": str(with_picture)})
    found = candidate.find(plan.model)
    counter = harness.Counter(lambda count: None, lambda: None)
    ran = harness.measure(
        plan, candidate.load(found, None), found.tokenizer, found.context, counter
    )
    assert "'<picture>', number" in str(ran.columns["pictures"].measured.error)


@pytest.mark.usefixtures("plain_process")
def test_measured_rows_with_a_token_without_embedding(
    make_evaluation: EvaluationFactory, with_picture: Path
) -> None:
    plan = make_evaluation(held_out=PICTURES, model={"directory": str(with_picture)})
    found = candidate.find(plan.model)
    asked = rows.ask(rows.choose(plan).rows, plan, found.tokenizer, found.context, answers=True)
    with pytest.raises(RunError, match=r"'<picture>', number [\d,]+") as caught:
        evaluate._measure(plan, Tracker(plan), found, asked, True)
    assert caught.value.reason == "TokenBeyondVocabulary"


@pytest.mark.parametrize("name", ["LlamaTokenizer", "GemmaTokenizer"])
def test_a_tokenizer_that_is_a_sentencepiece_model_alone(tmp_path: Path, name: str) -> None:
    import sentencepiece

    text = tmp_path / "text"
    text.write_text("\n".join(f"the row number {at} of a small text" for at in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=60, model_type="bpe",
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, byte_fallback=False, minloglevel=2,
    )  # fmt: skip
    folder = tmp_path / "model"
    files = model_files(vocabulary=64)
    files["tokenizer.model"] = (tmp_path / "tokenizer.model").read_bytes()
    files["tokenizer_config.json"] = json.dumps({"tokenizer_class": name}).encode()
    write(folder, files)
    plan = ModelPlan.model_validate({"name": "m", "directory": str(folder)})
    tokenizer = loading.load_tokenizer(plan, folder)
    ids = tokenizer("the row number 7 of a small text")["input_ids"]
    assert "small text" in tokenizer.decode(ids)
    assert tokenizer.unk_token_id not in ids


WORDS = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" t", b" the", b"er"]
"""A vocabulary as tiktoken keeps it."""


def tiktoken_model(folder: Path, name: str, tokenizer_class: str) -> ModelPlan:
    files = model_files(vocabulary=300)
    lines = (f"{base64.b64encode(word).decode()} {at}" for at, word in enumerate(WORDS))
    files[name] = "\n".join(lines).encode()
    config = {"eos_token": "<|end|>", "tokenizer_class": tokenizer_class}
    files["tokenizer_config.json"] = json.dumps(config).encode()
    write(folder, files)
    return ModelPlan.model_validate({"name": "m", "directory": str(folder)})


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "LlamaTokenizer"])
def test_a_tokenizer_that_is_a_tiktoken_file_alone(tmp_path: Path, tokenizer_class: str) -> None:
    plan = tiktoken_model(tmp_path / "model", "tokenizer.model", tokenizer_class)
    tokenizer = loading.load_tokenizer(plan, tmp_path / "model")
    ids = tokenizer("the other")["input_ids"]
    assert ids == [257, 32, 111, 257, 114]
    assert tokenizer.decode(ids) == "the other"


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "LlamaTokenizer"])
def test_a_vocabulary_that_nothing_reads_is_refused(tmp_path: Path, tokenizer_class: str) -> None:
    """transformers makes a tokenizer of three tokens of it, for which every text is empty."""
    plan = tiktoken_model(tmp_path / "model", "qwen.tiktoken", tokenizer_class)
    with pytest.raises(RunError, match=r"qwen\.tiktoken could.*save_pretrained") as caught:
        loading.load_tokenizer(plan, tmp_path / "model")
    assert caught.value.reason == "TokenizerUnreadable"
