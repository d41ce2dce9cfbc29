"""Each stage of a run is told: in its order, in the log and in the run's tag."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune_runner import evaluate
from kubetune_runner.model.hub import _counting
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.stages import Stages, expected
from kubetune_runner.training.run import run as train

from tests.runners.conftest import PlanFactory
from tests.runners.evaluation_fixtures import EvaluationFactory
from tests.runners.test_progress import client_of, runs_of


class Seen:
    """What was told of each stage, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.facts: list[dict[str, Any]] = []
        begin = Stages.begin

        def watched(stages: Stages, *given: Any, **named: Any) -> Any:
            report = begin(stages, *given, **named)
            self.facts.append(stages.facts())

            def told(done: int, total: int | None = None) -> None:
                report(done, total)
                self.facts.append(stages.facts())

            return told

        monkeypatch.setattr(Stages, "begin", watched)

    @property
    def stages(self) -> list[str]:
        """Each one once, as it began."""
        return list(dict.fromkeys(each["stage"] for each in self.facts))

    def last(self, stage: str) -> dict[str, Any]:
        """The last that was told of it."""
        return [each for each in self.facts if each["stage"] == stage][-1]


@pytest.mark.training
def test_a_training_tells_each_of_its_stages(
    make_plan: PlanFactory,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen(monkeypatch)
    plan = make_plan(
        rows=tickets(300),
        tracking={"uri": mlflow_server},
        merge=True,
        training={
            "hyperparameters": {"maxSteps": 6},
            "evaluation": {"baseline": True, "maxRows": 3, "maxLossRows": 5},
        },
    )
    with caplog.at_level(logging.INFO):
        outcome = train(plan, StopSignal())
    assert outcome.reason == "Trained", outcome
    assert seen.stages == list(expected(plan))
    percents = [each["percent"] for each in seen.facts]
    assert percents == sorted(percents)
    assert seen.last("training")["percent"] < 95
    assert percents[-1] < 100
    phases = [message for message in caplog.messages if message.startswith("phase ")]
    assert list(dict.fromkeys(phases)) == [
        f"phase {name}" for name in ("preparing", *expected(plan), "succeeded")
    ]
    for stage, amount in (("baseline", 8), ("evaluating", 8), ("training", 6)):
        told = seen.last(stage)
        assert (told["done"], told["total"]) == (amount, amount), "of losses and answers"
    assert seen.last("tokenizing")["unit"] == "rows"
    [run] = runs_of(mlflow_server, plan.run.run_key)
    told = json.loads(run.data.tags[names.TAG_PROGRESS])
    assert told["stage"] == "uploading"
    assert told["percent"] == percents[-1]


def test_an_evaluation_tells_each_of_its_stages(
    make_evaluation: EvaluationFactory,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
    plain_process: None,
) -> None:
    seen = Seen(monkeypatch)
    plan = make_evaluation(tracking={"uri": mlflow_server})
    summary: Any = evaluate.run(plan).summary
    before = ["reading", "downloading", "tokenizing", "loading"]
    assert seen.stages == [*before, "evaluating", "uploading"]
    told = seen.last("evaluating")
    assert (told["done"], told["total"], told["unit"]) == (8, 8, "rows")
    tags = client_of(mlflow_server).get_run(summary["runId"]).data.tags
    assert json.loads(tags[names.TAG_PROGRESS])["stage"] == "uploading"


def test_bytes_are_counted_as_they_come(tmp_path: Path) -> None:
    """By what huggingface_hub makes of the class that it is given."""
    from huggingface_hub.file_download import _get_progress_bar_context

    come: list[int] = []
    bar = _get_progress_bar_context(
        desc="a", log_level=logging.INFO, total=30, initial=10, tqdm_class=_counting(come.append)
    )
    with bar as progress:
        progress.update(5)
        progress.update(15)
    assert come == [15, 30]
