"""Stages of a run: what is told of each, and that percent never goes back."""

from __future__ import annotations

import logging

import pytest
from kubetune.api.run.stages import FACTS, STAGES, Stage
from kubetune_runner.stages import LINE_SECONDS, Stages

WHOLE: tuple[Stage, ...] = (
    "downloading",
    "reading",
    "tokenizing",
    "loading",
    "training",
    "evaluating",
    "uploading",
)


class Clock:
    """Time that passes when told so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_told_before_the_first_stage() -> None:
    assert Stages(WHOLE).facts() == {}


def test_a_stage_tells_what_is_done_of_it_and_how_long_the_rest_takes() -> None:
    clock = Clock()
    stages = Stages(WHOLE, clock=clock)
    report = stages.begin("tokenizing", "rows", 1_000_000)
    clock.now += 60
    report(250_000, None)
    told = stages.facts()
    assert told == {
        "stage": "tokenizing",
        "percent": stages.percent,
        "done": 250_000,
        "total": 1_000_000,
        "unit": "rows",
        "stage_eta_seconds": 180.0,
    }
    assert stages.line().startswith("tokenizing: 250,000 of 1,000,000 rows, about 3m0s left (")


def test_what_an_earlier_attempt_has_done_says_nothing_about_the_pace() -> None:
    clock = Clock()
    stages = Stages(WHOLE, clock=clock)
    report = stages.begin("training", "steps", 100, 60)
    assert "stage_eta_seconds" not in stages.facts()
    clock.now += 10
    report(70, 100)
    assert stages.facts()["stage_eta_seconds"] == 30.0


def test_without_a_total_there_is_no_eta() -> None:
    clock = Clock()
    stages = Stages(WHOLE, clock=clock)
    stages.begin("reading", "rows")(5, None)
    clock.now += 5
    told = stages.facts()
    del told["percent"]
    assert told == {"stage": "reading", "done": 5, "unit": "rows"}
    assert stages.line() == f"reading the rows: 5 rows ({stages.percent}% of the run)"


@pytest.mark.parametrize("lying", [-5, 0, 10**30])
def test_percent_never_goes_back_and_is_never_whole(lying: int) -> None:
    stages = Stages(WHOLE)
    seen = [stages.percent]
    for stage in (*WHOLE, "downloading", "baseline", "uploading"):
        report = stages.begin(stage, "rows", 10)
        for done in (3, 10, lying, 4):
            report(done, 10)
            seen.append(stages.percent)
    assert seen == sorted(seen)
    assert seen[-1] == 99


def test_training_is_most_of_a_run_and_not_its_end() -> None:
    stages = Stages(WHOLE)
    report = stages.begin("training", "steps", 10)
    before = stages.percent
    report(10, 10)
    assert before < 20
    assert 80 <= stages.percent < 95


def test_a_report_of_a_stage_that_is_over_changes_nothing() -> None:
    clock = Clock()
    stages = Stages(WHOLE, clock=clock)
    late = stages.begin("reading", "rows", 10)
    clock.now += 1
    stages.begin("tokenizing", "rows", 10)
    late(9, 10)
    assert stages.facts()["done"] == 0


def test_beginnings_are_told() -> None:
    begun: list[Stage] = []
    stages = Stages(WHOLE, begun.append)
    stages.begin("loading")
    assert begun == ["loading"]
    assert stages.line() == f"loading the model ({stages.percent}% of the run)"


def test_a_line_comes_again_and_again_until_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """By a clock of its own: what it waits for is told, not slept."""
    clock = Clock()
    stages = Stages(WHOLE, clock=clock)
    report = stages.begin("training", "steps", 10)
    with caplog.at_level(logging.INFO):
        report(2, 10)
        clock.now += LINE_SECONDS - 1
        stages.write_line()
        assert caplog.messages == []
        clock.now += 1
        stages.write_line()
        stages.write_line()
        clock.now += LINE_SECONDS
        stages.write_line()
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "training: 2 of 10 steps, about 40s left",
        "training: 2 of 10 steps, about 1m20s left",
    ]


def test_every_stage_has_words_and_a_share() -> None:
    assert set(FACTS) == set(STAGES)
    assert all(facts.share > 0 for facts in FACTS.values())
