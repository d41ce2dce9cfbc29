"""What the tracking server refuses for good ends the wait; what may pass doesn't."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    NOW,
    TRAINED,
    attempt,
    condition_of,
    job,
    names,
    observed_job,
    resource,
    run,
    tried,
)
from evaluation_objects import (
    candidate,
    decided,
    evaluation,
    not_found,
    observed,
    registered_model,
    tracked,
)
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.decide.decision import Decision, FindAlias, FindEvaluation, MoveAlias
from kubetune.decide.evaluation.observed import EvaluationAnswers
from kubetune.decide.fine_tune_job import states as fine_tune_job
from kubetune.decide.fine_tune_job.observed import TrackerAnswers

ERROR = "http://mlflow answered HTTP 400: Version alias name 'v1' is reserved."
REGISTRY: JsonObject = {"output": {"registry": {"name": "house", "alias": "best"}}}
PROMOTE: JsonObject = {"promote": {"name": "tickets", "alias": "champion"}}
REFUSED: JsonObject = {"tracking_error": ERROR, "tracking_reason": Reason.TRACKING_REFUSED}


def ended(answers: TrackerAnswers, **around: Any) -> Decision[Any]:
    status = tried(attempt(1, "Running"), lineage={"digest": "sha256:l", "codeVersion": "1"})
    status["effective"] = {"method": {"type": "lora"}, "resources": {}}
    given = {"runs": [run(1, "succeeded", TRAINED)]} | around
    found = observed_job(job(REGISTRY, status=status), answers=answers, **given)
    return fine_tune_job.decide(found, NOW)


def test_a_job_whose_version_is_refused_fails_and_keeps_its_result():
    decision = ended(TrackerAnswers(**REFUSED))
    status = decision.status or {}
    assert status["phase"] == "Failed"
    assert "Register" not in names(decision)
    assert condition_of(status, "Failed") == ("True", "TrackingRefused")
    assert condition_of(status, "Registered") == ("False", "TrackingRefused")
    assert ERROR in status["failure"]["message"]
    assert status["result"]["modelUri"] in status["failure"]["message"]


@pytest.mark.parametrize("reason", [Reason.TRACKING_UNREACHABLE, Reason.TRACKING_CREDENTIALS])
def test_what_others_can_mend_is_waited_for(reason: Reason):
    decision = ended(TrackerAnswers(tracking_error=ERROR, tracking_reason=reason))
    assert names(decision) == ["Register"]
    assert condition_of(decision.status, "Ready") == ("False", str(reason))


def test_a_run_that_can_not_be_sought_is_not_waited_for():
    decision = ended(TrackerAnswers(**REFUSED), runs=[run(1, "succeeded")])
    assert (decision.status or {})["failure"]["reason"] == "TrackingRefused"


def test_no_training_for_a_registry_that_refuses_the_question():
    given = observed_job(job(REGISTRY), answers=TrackerAnswers(**REFUSED))
    decision = fine_tune_job.decide(given, NOW)
    assert (decision.status or {})["failure"]["reason"] == "TrackingRefused"
    assert "StartRun" not in names(decision)


def test_a_candidate_whose_results_can_not_be_sought_fails():
    given = observed(evaluation("base"))
    (asked,) = decided(given).actions
    assert isinstance(asked, FindEvaluation)
    status = decided(replace(given, answers=EvaluationAnswers(**REFUSED))).status
    assert candidate(status, "base")["reason"] == "TrackingRefused"
    assert condition_of(status, "Failed") == ("True", "CandidateFailed")
    assert ERROR in candidate(status, "base")["message"]


def test_an_attempt_that_can_not_be_looked_up_fails_its_candidate():
    for phase in ("succeeded", "failed"):
        first = not_found(observed(evaluation("base")))
        begun = replace(first.evaluation, status=decided(first).status)
        (one,) = observed(begun, runs={"base": [run(1, phase)]}).candidates
        again = replace(first, evaluation=begun, candidates=[one])
        status = decided(replace(again, answers=EvaluationAnswers(**REFUSED))).status
        assert candidate(status, "base")["phase"] == "Failed"
        assert candidate(status, "base")["reason"] == "TrackingRefused"


def measured(**answers: Any) -> Any:
    """An Evaluation whose candidate was found measured, and what is known of the alias."""
    models = {"tuned": registered_model("tuned", 4)}
    given = observed(evaluation("tuned", activeDeadlineSeconds=60, **PROMOTE), models=models)
    (asked,) = decided(given).actions
    assert isinstance(asked, FindEvaluation)
    return replace(given, answers=EvaluationAnswers(found={asked.digest: tracked()}, **answers))


def test_an_alias_that_can_not_be_moved_leaves_the_verdict():
    (moving,) = decided(measured(alias_sought=True)).actions
    assert isinstance(moving, MoveAlias)
    status = decided(measured(alias_sought=True, **REFUSED)).status
    assert status["phase"] == "Succeeded"
    assert condition_of(status, "Passed") == ("True", "ThresholdsMet")
    assert condition_of(status, "Promoted") == ("False", "TrackingRefused")


def test_an_alias_that_can_not_be_looked_up_ends_the_wait():
    status = decided(measured(**REFUSED)).status
    assert condition_of(status, "Failed") == ("True", "TrackingRefused")


def test_the_deadline_ends_an_evaluation_that_runs_nothing():
    given = measured(tracking_error="no answer")
    first = decided(given)
    assert isinstance(first.actions[0], FindAlias)
    assert first.status["phase"] == "Registering"
    later = replace(given, evaluation=replace(given.evaluation, status=first.status))
    soon = decided(later, NOW + timedelta(seconds=59))
    assert soon.status["phase"] == "Registering"
    over = decided(later, NOW + timedelta(seconds=60))
    assert condition_of(over.status, "Failed") == ("True", "DeadlineExceeded")
    assert over.actions == ()
    # What is known by then is judged all the same.
    known = EvaluationAnswers(found=given.answers.found, alias_sought=True)
    judged = decided(replace(later, answers=known), NOW + timedelta(hours=1))
    assert condition_of(judged.status, "Passed") == ("True", "ThresholdsMet")


def test_a_name_that_no_registry_keeps_is_refused_before_training():
    def long(registry: JsonObject) -> Any:
        inputs = {"modelRef": {"name": "base"}, "datasetRef": {"name": "tickets"}}
        return resource("FineTuneJob", "t" * 253, inputs | {"output": {"registry": registry}})

    status = fine_tune_job.decide(observed_job(long({})), NOW).status or {}
    assert condition_of(status, "InputsReady") == ("False", "InputsRefused")
    decision = fine_tune_job.decide(observed_job(long({"name": "short"})), NOW)
    assert names(decision) == ["FindIdentical"]
