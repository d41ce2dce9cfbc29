"""Candidates and rows of evaluations: what is measured, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kubetune_runner import evaluate
from kubetune_runner.answering.folder import DESCRIPTION
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import candidate, measuring, rows
from kubetune_runner.evaluate.metrics import MeasuredRow
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.training import losses

from tests.runners.evaluation_fixtures import (
    EvaluationFactory,
    adapter_of,
    make_adapter,
    without_numbers,
)

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("plain_process")]

CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"Is {number} odd?"},
            {"role": "assistant", "content": "Yes." if number % 2 else "No, it is not."},
        ]
    }
    for number in range(4)
]
TEXT = [{"text": f"Text number {number}."} for number in range(4)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow server is there: don't wait for it at the end."""
    monkeypatch.setattr("kubetune_runner.mlflow.closing.CLOSE_SECONDS", 0.0)
    monkeypatch.setenv("KUBETUNE_UPLOAD_PATIENCE_SECONDS", "0")


def measured(plan: Any, *, loss: bool = True) -> list[MeasuredRow]:
    import torch

    found = candidate.find(plan.model)
    asked = rows.ask(
        rows.choose(plan).rows, plan, found.tokenizer, found.context, answers=True
    ).rows
    return measuring.measure(
        candidate.load(found, torch.float32),
        found.tokenizer,
        asked,
        plan,
        measuring.Progress(len(asked)),
        loss=loss,
        answered={row.number for row in asked if row.encoded.prompt_ids is not None},
    )


def digest_of(plan: Any, *, loss: bool = True) -> str:
    found = candidate.find(plan.model)
    asked = rows.ask(rows.choose(plan).rows, plan, found.tokenizer, found.context, answers=not loss)
    return rows.digest(asked.rows, loss=loss)


@pytest.mark.parametrize("data", ["pairs", "chat"])
def test_a_batch_is_measured_as_its_rows_alone(
    make_evaluation: EvaluationFactory, tiny_model: Path, tmp_path: Path, data: str
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", ["q_proj", "up_proj"])
    over: dict[str, Any] = {"model": adapter_of(tiny_model) | {"directory": str(adapter)}}
    if data == "chat":
        over |= {"held_out": CHAT, "rows": CHAT, "dataset": {"format": "messages"}}
    results: list[list[MeasuredRow]] = []
    for size in (1, 3):
        plan = make_evaluation(**over, generation={"batchSize": size})
        results.append(measured(plan))
    for alone, together in zip(*results, strict=True):
        assert alone.answer == together.answer
        assert alone.tokens == together.tokens
        assert alone.labels == together.labels
        assert alone.loss == pytest.approx(together.loss, rel=1e-5)
    base = measured(make_evaluation(**over | {"model": {}}))
    assert [row.answer for row in base] != [row.answer for row in results[0]]
    assert [row.reference for row in base] == [row.reference for row in results[0]]


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "lm_head"]])
def test_the_loss_is_that_of_the_models_own_logits(
    make_evaluation: EvaluationFactory, tiny_model: Path, tmp_path: Path, targets: list[str]
) -> None:
    """An adapter may change the output layer, too."""
    import torch

    adapter = make_adapter(tiny_model, tmp_path / "adapter", targets)
    plan = make_evaluation(model=adapter_of(tiny_model) | {"directory": str(adapter)})
    found = candidate.find(plan.model)
    asked = rows.ask(
        rows.choose(plan).rows, plan, found.tokenizer, found.context, answers=False
    ).rows
    model = candidate.load(found, torch.float32)
    batch = losses.padded([row.encoded for row in asked], found.tokenizer.pad_token_id, "cpu")
    for row, (total, count) in zip(asked, losses.row_losses(model, batch), strict=True):
        labels = torch.tensor(row.encoded.labels[1:])
        with torch.no_grad():
            ids = torch.tensor([row.encoded.input_ids])
            scores = model(input_ids=ids).logits[0, :-1].float()
        expected = torch.nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        assert total == pytest.approx(expected, rel=1e-4)
        assert count == int((labels != -100).sum())


def test_plain_text_has_a_loss_and_no_answers(make_evaluation: EvaluationFactory) -> None:
    plan = make_evaluation(held_out=TEXT, rows=TEXT, dataset={"format": "text"})
    for row in measured(plan):
        assert (row.prompt, row.reference, row.answer) == (None, None, None)
        assert row.loss
        assert row.loss > 0


def test_rows_are_chosen_alike_and_keep_their_order(make_evaluation: EvaluationFactory) -> None:
    def chosen(**over: Any) -> list[int]:
        return [row.number for row in rows.choose(make_evaluation(**over)).rows]

    assert chosen(maxRows=8) == list(range(8))
    some = chosen(maxRows=3)
    assert some == sorted(set(some))
    assert len(some) == 3
    assert chosen(maxRows=3) == some
    assert any(chosen(maxRows=3, seed=seed) != some for seed in range(5))
    assert chosen(split="train", maxRows=64) == list(range(64))
    digests = {digest_of(make_evaluation(maxRows=n)) for n in (3, 3, 4)}
    assert len(digests) == 2


def test_rows_without_answer_or_room_are_left_out(make_evaluation: EvaluationFactory) -> None:
    long = {"prompt": "word " * 250, "completion": "x"}
    held_out = [*tickets(3, held_out=True), {"prompt": "p", "completion": ""}, long]
    plan = make_evaluation(held_out=held_out)
    found = candidate.find(plan.model)
    asked = rows.ask(rows.choose(plan).rows, plan, found.tokenizer, found.context, answers=True)
    assert ([row.number for row in asked.rows], asked.empty, asked.too_long) == ([0, 1, 2], 1, 1)


def other_base(base: Path, folder: Path, **config: int) -> Path:
    """A model of the same family with other sizes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    changed = AutoConfig.from_pretrained(base, **config)
    model: Any = AutoModelForCausalLM.from_config(changed)
    model.save_pretrained(folder)
    for path in base.glob("token*"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"intermediate_size": 96}, "doesn't fit"),
        ({"num_hidden_layers": 1}, "which the base doesn't have"),
        ({"num_hidden_layers": 3}, "no weights for 2 layers"),
    ],
)
def test_an_adapter_on_another_base_is_refused(
    make_evaluation: EvaluationFactory,
    tiny_model: Path,
    tmp_path: Path,
    config: dict[str, int],
    words: str,
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", ["q_proj", "up_proj"])
    base = other_base(tiny_model, tmp_path / "other", **config)
    plan = make_evaluation(model=adapter_of(base) | {"directory": str(adapter)})
    with pytest.raises(RunError) as caught:
        evaluate.run(plan)
    assert caught.value.reason == "BaseModelMismatch"
    assert words in caught.value.message
    assert "baseModelRef" in caught.value.message


@pytest.mark.parametrize(
    ("named", "own", "refused"),
    [
        ("org/model", True, False),
        ("Org/Model", True, False),
        ("org/another", True, True),
        # Others may name a copy of the same model.
        ("org/another", False, False),
        ("/kubetune/model", True, False),
        ("pvc://models/base", True, False),
        ("models:/model/3", True, False),
    ],
)
def test_the_base_that_an_adapter_names_is_compared(
    make_evaluation: EvaluationFactory,
    tiny_model: Path,
    tmp_path: Path,
    named: str,
    own: bool,
    refused: bool,
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    if own:
        (tmp_path / DESCRIPTION).write_text("{}")
    base = {"name": "tiny", "type": "base", "hub": {"repo": "org/model", "revision": "main"}}
    plan = make_evaluation(model=adapter_of(tiny_model)).model
    plan = plan.model_validate(plan.to_json() | {"base": base})
    assert plan.base is not None
    if refused:
        with pytest.raises(RunError, match="was trained on org/another"):
            candidate._check_base(plan, plan.base, tmp_path)
    else:
        candidate._check_base(plan, plan.base, tmp_path)


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a dataset that changed": ({"dataset": {"digest": "sha256:0"}}, "DatasetChanged", "tickets"),
    "another split": ({"dataset": {"splitDigest": "sha256:0"}}, "DatasetChanged", "tickets"),
    "no held-out rows": (
        {"held_out": [], "rows": tickets(1)},
        "NoRows",
        "evaluationFraction",
    ),
    "no answers": (
        {"held_out": [{"prompt": "p", "completion": ""}]},
        "NoUsableRows",
        "add answers",
    ),
    "no room": ({"generation": {"maxNewTokens": 256}}, "NoUsableRows", "maxNewTokens"),
    "a number format without its GPU": ({"precision": "fp16"}, "PrecisionUnsupported", "auto"),
    "a model that isn't there": ({"model": {"directory": "/no/such"}}, "ModelMissing", "/no/such"),
    "an adapter without a base": ({"model": {"type": "adapter"}}, "BaseModelMissing", "baseModel"),
    "no tracking server": ({}, "TrackingUnavailable", "rows"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_plan_that_can_not_be_measured_is_refused(
    make_evaluation: EvaluationFactory, case: str
) -> None:
    over, reason, words = REFUSALS[case]
    with pytest.raises(RunError) as caught:
        evaluate.run(make_evaluation(**over))
    assert (caught.value.reason, caught.value.retryable) == (
        reason,
        reason == "TrackingUnavailable",
    )
    assert words in caught.value.message


@pytest.mark.parametrize(
    "text", ["[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", ""]
)
def test_too_little_memory_is_told_with_the_way_out(
    make_evaluation: EvaluationFactory, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    import torch

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(text) if text else torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measuring, "generate", fail)
    with pytest.raises(RunError) as caught:
        evaluate.run(make_evaluation())
    assert (caught.value.reason, caught.value.retryable) == ("OutOfMemory", False)
    assert "batchSize 3" in caught.value.message


def test_custom_metrics_see_answers_and_columns(
    make_evaluation: EvaluationFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails is an error beside the others."""
    stored: list[Any] = []
    monkeypatch.setattr("kubetune_runner.evaluate.report.store_rows", lambda *a: stored.append(a))
    head = "def metric(prediction, reference, row):\n    "
    plan = make_evaluation(
        metrics=[],
        customMetrics=[
            {
                "name": "right",
                "source": f"{head}return row['completion'] == reference and prediction is not None",
                "timeoutSeconds": 60,
            },
            {"name": "broken", "source": f"{head}return 1 / 0", "timeoutSeconds": 60},
        ],
    )
    summary: Any = evaluate.run(plan).summary
    assert summary["metrics"] == {
        "right": {"value": 1.0, "low": 1.0, "high": 1.0},
        "broken": {
            "error": "broken: row 0: it raised ZeroDivisionError in line 2: division by zero"
        },
    }
    assert stored[0][2]["right"].values == [1.0] * 8


def test_sampling_is_the_same_for_equal_seeds(make_evaluation: EvaluationFactory) -> None:
    def answers(seed: int) -> list[str | None]:
        plan = make_evaluation(seed=seed, generation={"temperature": 1.0, "topP": 0.9})
        return [row.answer for row in measured(plan, loss=False)]

    assert answers(1) == answers(1) != answers(2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("metrics", [["loss"], ["exactMatch"]])
def test_a_candidate_that_gives_no_numbers_ends_once(
    make_evaluation: EvaluationFactory,
    tiny_model: Path,
    tmp_path: Path,
    value: float,
    metrics: list[str],
) -> None:
    """Greedy generation would answer something all the same."""
    broken = without_numbers(tiny_model, tmp_path / "broken", value)
    plan = make_evaluation(model={"directory": str(broken)}, metrics=metrics)
    with pytest.raises(RunError) as caught:
        evaluate.run(plan)
    assert (caught.value.reason, caught.value.retryable) == ("LossNotFinite", False)
    assert "leave the candidate out" in caught.value.message


def narrow(base: Path, folder: Path, context: int) -> Path:
    """The same model with a shorter context."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    return folder


@pytest.mark.parametrize("loss", [True, False])
def test_the_digest_of_rows_covers_what_was_measured(
    make_evaluation: EvaluationFactory, tiny_model: Path, tmp_path: Path, loss: bool
) -> None:
    """Rows that a context has no room for are left out of answers, and cut for a loss."""
    mixed = [
        {"prompt": f"short {at}", "completion": "yes"}
        if at < 2
        else {"prompt": f"a long question {at} " * 5, "completion": "no or yes"}
        for at in range(6)
    ]
    folder = narrow(tiny_model, tmp_path / "narrow", 24)
    metrics = ["loss"] if loss else ["exactMatch"]
    common: dict[str, Any] = {"held_out": mixed, "metrics": metrics}
    wide = make_evaluation(**common)
    less = make_evaluation(**common, model={"directory": str(folder)})
    assert digest_of(wide, loss=loss) == digest_of(wide, loss=loss)
    assert digest_of(wide, loss=loss) != digest_of(less, loss=loss)
    # Where all fits the context says nothing.
    short: dict[str, Any] = {"held_out": mixed[:2], "metrics": metrics}
    wide = make_evaluation(**short, generation={"maxNewTokens": 2})
    less = make_evaluation(
        **short, generation={"maxNewTokens": 2}, model={"directory": str(folder)}
    )
    assert digest_of(wide, loss=loss) == digest_of(less, loss=loss)


def test_a_loss_per_byte_is_the_same_text_for_every_tokenizer(
    make_evaluation: EvaluationFactory,
) -> None:
    texts = [{"text": "Grüße, 你好"}, {"text": "plain"}]
    plan = make_evaluation(held_out=texts, rows=texts, dataset={"format": "text"})
    sizes = [row.size for row in measured(plan)]
    assert sizes == [len(row["text"].encode()) for row in texts]
    chats = [
        row.size
        for row in measured(
            make_evaluation(held_out=CHAT, rows=CHAT, dataset={"format": "messages"})
        )
    ]
    assert chats == [len(row["messages"][1]["content"].encode()) for row in CHAT]
