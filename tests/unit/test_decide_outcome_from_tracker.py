"""The outcome of a CML run whose file didn't arrive, from the tags of its tracked run."""

from dataclasses import replace
from typing import Any

from builders import (
    CRASHED,
    NOW,
    REFUSED,
    RUN_KEY,
    TRACKED,
    TRAINED,
    attempt,
    job,
    names,
    observed_job,
    run,
    tried,
)
from cml_objects import request
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import outcome_tag
from kubetune.decide.decision import Decision, FindRun
from kubetune.decide.fine_tune_job.observed import ObservedJob, TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.resources import Target

ON_CML = Target("ComputeTarget", "main", request().target, True, "")
MUTE = run(1, "failed", reason="RunFailed", message="it left no reason")


def told(outcome: Outcome, number: int = 1) -> TrackerAnswers:
    """What the tracked run tells of an attempt."""
    tags = {outcome_tag(number): outcome.to_message()}
    return TrackerAnswers(run=replace(TRACKED, tags=tags), run_sought=True)


def mute_job(status: JsonObject | None = None, **fields: Any) -> ObservedJob:
    """A job on CML whose run failed and left nothing."""
    given = {"target": ON_CML, "runs": [MUTE]} | fields
    return observed_job(job(status=status or tried(attempt(1, "Running"))), **given)


def first_attempt(decision: Decision[Any]) -> JsonObject:
    return (decision.status or {})["attempts"][0]


def test_a_mute_failure_is_looked_up_before_it_is_written() -> None:
    observed = mute_job()
    decision = decide(observed, NOW)
    assert decision.actions == (FindRun(RUN_KEY),)
    assert decision.status == observed.job.status


def test_the_tag_tells_reason_and_whether_to_try_again() -> None:
    decision = decide(mute_job(answers=told(REFUSED)), NOW)
    assert first_attempt(decision)["reason"] == REFUSED.reason
    assert (decision.status or {})["failure"]["message"] == REFUSED.message
    again = decide(mute_job(answers=told(CRASHED)), NOW)
    assert first_attempt(again)["reason"] == CRASHED.reason
    assert (again.status or {})["phase"] == "Queued"


def test_an_interrupted_run_was_preempted() -> None:
    stopped = Outcome(status="interrupted", reason="Interrupted", retryable=True)
    decision = decide(mute_job(answers=told(stopped)), NOW)
    assert first_attempt(decision)["result"] == "Preempted"


def test_tags_of_another_attempt_or_of_success_say_nothing() -> None:
    for answers in (
        told(REFUSED, number=2),
        told(TRAINED),
        TrackerAnswers(run_sought=True),
        TrackerAnswers(tracking_error="MLflow is away"),
    ):
        decision = decide(mute_job(answers=answers), NOW)
        assert first_attempt(decision)["reason"] == "RunFailed"
        assert (decision.status or {})["phase"] == "Queued"


def test_it_is_looked_up_once_and_only_where_it_helps() -> None:
    known = tried(attempt(1, "Failed", reason="RunFailed"))
    spoken = replace(MUTE, reason="OutOfMemory")
    for observed in (
        mute_job(known),
        mute_job(runs=[spoken]),
        mute_job(runs=[run(1, "failed", CRASHED)]),
        observed_job(job(status=tried(attempt(1, "Running"))), runs=[MUTE]),
    ):
        assert "FindRun" not in names(decide(observed, NOW))
