"""What becomes of rows on their way into sequences: long ones, and several in one sequence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.text.encoding import EncodedRow
from kubetune_runner.training import packing
from kubetune_runner.training.fitting import make_trainer
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory

LONG = {"prompt": "My router does not work again. " * 8, "completion": " queue=network"}
ROWS = [*tickets(6), LONG, LONG]


@pytest.mark.parametrize(
    ("policy", "used", "cut", "dropped"),
    [("truncate", 8, 2, 0), ("drop", 6, 0, 2)],
)
def test_long_rows(make_plan: PlanFactory, policy: str, used: int, cut: int, dropped: int) -> None:
    held_out = [*tickets(2, held_out=True), LONG]
    # Cut at 60 tokens, a text's start is left to learn from.
    rows, held = ([{"text": r["prompt"] + r["completion"]} for r in s] for s in (ROWS, held_out))
    training = {"longRows": policy, "hyperparameters": {"maxLength": 60}}
    plan = make_plan(rows=rows, held_out=held, dataset={"format": "text"}, training=training)
    inputs = prepare(plan)
    assert inputs.train.counts() == {
        "used": used,
        "empty": 0,
        "unusable": 0,
        "cut": cut,
        "cutAway": 0,
        "dropped": dropped,
        "hidden": 0,
    }
    assert inputs.evaluation.counts()["dropped"] == (policy == "drop")


def test_long_rows_are_refused(make_plan: PlanFactory) -> None:
    plan = make_plan(
        rows=ROWS, training={"longRows": "refuse", "hyperparameters": {"maxLength": 60}}
    )
    with pytest.raises(RunError) as caught:
        prepare(plan)
    assert (caught.value.reason, caught.value.retryable) == ("RowsTooLong", False)
    assert "2 of 8 rows" in caught.value.message
    assert "maxLength 60" in caught.value.message


def test_a_share_of_the_training_rows(make_plan: PlanFactory) -> None:
    """By seed, always the same, and none of the held-out rows is left out."""

    def chosen(seed: int) -> tuple[list[list[int]], int]:
        plan = make_plan(rows=tickets(40), training={"dataFraction": 0.25, "dataSeed": seed})
        inputs = prepare(plan)
        return [row.input_ids for row in inputs.train.rows], len(inputs.evaluation.rows)

    rows, held_out = chosen(1)
    assert (len(rows), held_out) == (10, 8)
    assert chosen(1) == (rows, held_out)
    assert chosen(2)[0] != rows


@pytest.mark.training
def test_operations_are_counted_as_transformers_counts_them(make_plan: PlanFactory) -> None:
    from transformers import Trainer

    plan = make_plan()
    trainer: Any
    trainer, _ = make_trainer(plan, prepare(plan), StopSignal(), Tracker(plan))
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.floating_point_ops(batch) == Trainer.floating_point_ops(trainer, batch) > 0
    assert trainer.floating_point_ops({}) == 0


@pytest.mark.training
@pytest.mark.parametrize("method", ["lora", "full"])
def test_packed_rows_do_not_see_each_other(make_plan: PlanFactory, method: str) -> None:
    """Scores and loss of packed rows are those of each row alone, through trl's own batches."""
    import torch

    plan = make_plan(training={"method": method, "hyperparameters": {"packing": True}})
    inputs = prepare(plan)
    trainer, _ = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    model: Any = trainer.model
    model.eval()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ids, positions = batch["input_ids"][0], batch["position_ids"][0]
    starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
    assert len(starts) > 8, "several rows are in the batch"
    assert batch["input_ids"].shape[0] == 1
    shapes = {name: batch[name] for name in batch if name != "labels"}
    with torch.no_grad():
        packed = model(**shapes, use_cache=False).logits[0]
        total = tokens = 0.0
        for start, end in pairwise(starts):
            row = ids[None, start:end]
            alone = model(input_ids=row, use_cache=False).logits[0]
            torch.testing.assert_close(packed[start:end], alone, rtol=1e-4, atol=1e-4)
            labels = batch["labels"][0, start + 1 : end]
            total += torch.nn.functional.cross_entropy(
                alone[:-1], labels, reduction="sum", ignore_index=-100
            ).item()
            tokens += int((labels != -100).sum())
        count = torch.tensor(tokens)
        loss: Any = trainer.compute_loss(model, batch, num_items_in_batch=count)
    assert loss.item() == pytest.approx(total / tokens, abs=1e-4)


def test_a_model_that_mixes_packed_rows_is_refused(tiny_model: Path) -> None:
    """It ignores that positions start anew."""
    from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

    rows = [EncodedRow([5, 6, 7, 8], [5, 6, 7, 8]), EncodedRow([9, 10, 11], [9, 10, 11])]
    packing.check(AutoModelForCausalLM.from_pretrained(tiny_model), rows)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(RunError) as caught:
        packing.check(bloom, rows)
    assert caught.value.reason == "PackingUnsupported"
    assert "bloom" in caught.value.message


@pytest.mark.training
def test_rows_whose_answers_are_not_graded_are_counted(make_plan: PlanFactory) -> None:
    from kubetune_runner.training import objectives
    from kubetune_runner.training.objectives.base import Measure

    long = [{"prompt": "word " * 60, "completion": "yes"} for _ in range(9)]
    held_out = [{"prompt": "short", "completion": "yes"}, *long]
    plan = make_plan(held_out=held_out, training={"evaluation": {"maxNewTokens": 230}})
    inputs = prepare(plan)
    trainer, _ = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    measure = Measure(inputs.tokenizer, inputs.evaluation.rows, plan.training, inputs.context)
    found = objectives.load("sft").evaluate(trainer, measure)
    assert found.counts() == {"lossRows": 10, "answered": 1, "noRoom": 9}
    assert "exact_match" in found.metrics
