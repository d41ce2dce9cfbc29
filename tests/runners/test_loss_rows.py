"""Losses of many held-out rows are of some of them: the same before, in and after training, and in
an Evaluation."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.kinds.dataset.spec import MOST_HELD_OUT_BY_DEFAULT, Splits
from kubetune.api.run.evaluation_plan import EvaluationSummary
from kubetune_runner import evaluate
from kubetune_runner.data.splits import hold_out, some
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import candidate, rows
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import make_trainer
from kubetune_runner.training.inputs import prepare
from kubetune_runner.training.run import run as train

from tests.runners.conftest import PlanFactory
from tests.runners.evaluation_fixtures import EvaluationFactory, adapter_of
from tests.runners.test_train_objectives import pairs, plan_for, rated

HELD_OUT = 12
FEW: dict[str, Any] = {"evaluation": {"maxLossRows": 5, "baseline": True, "maxRows": 2}}


@pytest.mark.parametrize(
    ("splits", "held_out"),
    [
        ({}, MOST_HELD_OUT_BY_DEFAULT),
        ({"evaluationFraction": 0.1}, 15_000),
        ({"evaluationFraction": 0.0}, 0),
    ],
    ids=str,
)
def test_the_default_share_has_a_ceiling(splits: dict[str, Any], held_out: int) -> None:
    hashes = b"".join(hashlib.sha256(str(at).encode()).digest() for at in range(150_000))
    assert sum(hold_out(hashes, Splits.model_validate(splits))) == held_out


def test_rows_are_chosen_by_the_seed() -> None:
    assert list(some(5, None, 1)) == list(some(5, 5, 1)) == list(range(5))
    chosen = some(100_000, 2000, 42)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == 2000
    assert chosen == some(100_000, 2000, 42)
    assert chosen != some(100_000, 2000, 43)


@pytest.mark.training
@pytest.mark.parametrize("objective", ["sft", "dpo", "kto", "reward"])
def test_every_objective_measures_the_rows_that_the_seed_chooses(
    make_plan: PlanFactory, objective: str
) -> None:
    count = HELD_OUT // 2 if objective == "kto" else HELD_OUT
    make: Any = {"sft": tickets, "kto": rated}.get(objective, pairs)
    document: dict[str, Any] = {
        "rows": make(8),
        "held_out": make(count, held_out=True),
    }
    if objective == "sft":
        plan = make_plan(**document, dataset={"splits": {"seed": 7}}, training=FEW)
    else:
        plan = plan_for(make_plan, objective, **document, training=FEW)
        splits = plan.dataset.splits.model_copy(update={"seed": 7})
        data = plan.dataset.model_copy(update={"splits": splits})
        plan = plan.model_copy(update={"dataset": data})
    inputs = prepare(plan)
    trainer, _ = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    expected = [inputs.evaluation.rows[at] for at in some(HELD_OUT, 5, 7)]
    assert list(inputs.measured.rows) == expected
    assert list(trainer.encoded) == expected
    given: Any = trainer.eval_dataset
    assert len(given) == trainer.loss_rows == 5
    assert len(inputs.evaluation.rows) == HELD_OUT


@pytest.mark.training
def test_an_evaluation_measures_the_rows_of_the_training(
    make_plan: PlanFactory,
    make_evaluation: EvaluationFactory,
    mlflow_server: str,
    tiny_model: Path,
    plain_process: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracking = {"uri": mlflow_server}
    held_out = tickets(HELD_OUT, held_out=True)
    document: dict[str, Any] = {"held_out": held_out, "tracking": tracking}
    plan = make_plan(**document, training={"hyperparameters": {"maxSteps": 2}, **FEW})
    with caplog.at_level(logging.INFO):
        outcome = train(plan, StopSignal())
    assert outcome.reason == "Trained", outcome
    assert "loss on 5 of 12 held-out rows" in caplog.messages
    summary: Any = outcome.summary
    assert summary["rows"]["evaluation"]["lossRows"] == 5

    def evaluated(name: str, **over: Any) -> EvaluationSummary:
        run = {"run": {"runKey": f"{plan.run.run_key}-{name}"}}
        asked = make_evaluation(
            held_out=held_out, metrics=["loss"], tracking=tracking, **over, **run
        )
        return EvaluationSummary.model_validate(evaluate.run(asked).summary)

    before = evaluated("before", maxLossRows=5, maxRows=2)
    assert (before.rows, before.loss_rows, before.split_rows) == (5, 5, HELD_OUT)
    assert before.metrics["loss"].value == pytest.approx(
        summary["metrics"]["baseline_eval_loss"], rel=1e-4
    )
    folder = plan.training.checkpoint.directory + "/result/adapter"
    after = evaluated("after", maxLossRows=5, model=adapter_of(tiny_model) | {"directory": folder})
    assert after.metrics["loss"].value == pytest.approx(summary["metrics"]["eval_loss"], rel=1e-4)
    assert after.rows_digest == before.rows_digest
    whole = evaluated("whole", maxLossRows=HELD_OUT)
    assert (whole.rows, whole.loss_rows) == (HELD_OUT, HELD_OUT)
    assert whole.metrics["loss"].value != pytest.approx(before.metrics["loss"].value, rel=1e-4)
    assert whole.rows_digest != before.rows_digest


def test_answers_and_losses_are_of_rows_of_their_own(make_evaluation: EvaluationFactory) -> None:
    held_out = tickets(HELD_OUT, held_out=True)
    plan = make_evaluation(held_out=held_out, maxRows=4, maxLossRows=6, seed=1)
    chosen = rows.choose(plan)
    assert chosen.of == HELD_OUT
    assert [row.number for row in chosen.rows if row.loss] == list(some(HELD_OUT, 6, 42))
    assert [row.number for row in chosen.rows if row.answer] == list(some(HELD_OUT, 4, 1))
    assert all(row.loss or row.answer for row in chosen.rows)
    alone = rows.choose(plan, answers=False)
    assert [row.number for row in alone.rows] == list(some(HELD_OUT, 6, 42))


def test_a_row_without_room_for_an_answer_keeps_its_loss(
    make_evaluation: EvaluationFactory,
) -> None:
    long = {"prompt": "word " * 60, "completion": "x"}
    held_out = [*tickets(3, held_out=True), long]
    plan = make_evaluation(held_out=held_out, maxLossRows=8, generation={"maxNewTokens": 200})
    found = candidate.find(plan.model)
    asked = rows.ask(rows.choose(plan).rows, plan, found.tokenizer, found.context, answers=True)
    assert [(row.number, row.loss, row.answer) for row in asked.rows] == [
        *((number, True, True) for number in range(3)),
        (3, True, False),
    ]
    assert asked.too_long == 1
    none = plan.model_copy(
        update={"generation": plan.generation.model_copy(update={"max_new_tokens": 256})}
    )
    with pytest.raises(RunError) as caught:
        rows.ask(rows.choose(none).rows, none, found.tokenizer, found.context, answers=True)
    assert caught.value.reason == "NoUsableRows"
