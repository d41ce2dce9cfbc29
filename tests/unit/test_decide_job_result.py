"""The end of a job whose run succeeded: result, registration, reuse and the output Model."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    MISSING_TARGET,
    NONE_FINISHED,
    NOW,
    TRACKED,
    TRAINED,
    VERSION,
    attempt,
    condition_of,
    job,
    kstatus,
    names,
    observed_job,
    run,
    target,
    told,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import CreateModel, Decision, FindIdentical, FindRun, Register
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.tracking.base import TrackedRun

REGISTRY: JsonObject = {"output": {"registry": {"alias": "best"}}, "reuse": "Never"}
BOTH: JsonObject = {"output": {"registry": {"name": "house"}, "modelName": "out"}}
SUCCEEDED = [run(1, "succeeded", TRAINED)]
SILENT = [run(1, "succeeded")]
FOUND_RUN = replace(TRACKED, status="FINISHED", tags={"kubetune.model_id": "m-9"})
IN_CML = target(
    kubernetes=None,
    cml={
        "url": "https://ml.example/",
        "project": "tuning",
        "apiKeySecretRef": {"name": "cml"},
        "runtime": {"kernel": "Python 3.11"},
    },
    tracking={"type": "cml"},
)


def ended(spec: JsonObject, method: str = "lora", **around: Any) -> Decision[Any]:
    status = tried(attempt(1, "Running"), lineage={"digest": "sha256:l", "codeVersion": "1"})
    status["effective"] = {"method": {"type": method}, "resources": {}}
    return decide(observed_job(job(spec, status=status), **({"runs": SUCCEEDED} | around)), NOW)


def status_of(decision: Decision[Any]) -> JsonObject:
    assert decision.status is not None
    return decision.status


def test_registers_the_run_s_model() -> None:
    decision = ended(REGISTRY)
    (register,) = decision.actions
    assert isinstance(register, Register)
    wanted = register.registration
    assert (wanted.name, wanted.alias) == ("team_tune", "best")
    assert (wanted.run_id, wanted.source) == ("run-1", "models:/m-1")
    assert wanted.tags["kubetune.lineage_digest"] == "sha256:l"
    assert wanted.tags["kubetune.codeVersion"] == "1"
    assert status_of(decision)["phase"] == "Registering"
    assert condition_of(decision.status, "Registered") == ("False", "Registering")
    assert decision.requeue_after == 10


def test_completes_once_the_version_is_known() -> None:
    version = replace(VERSION, aliases=("best",))
    decision = ended(REGISTRY, answers=TrackerAnswers(registered=version))
    status = status_of(decision)
    assert status["phase"] == "Succeeded"
    assert status["result"]["registered"] == {"name": "team-tune", "version": 3, "alias": "best"}
    assert status["result"]["metrics"] == {"evalLoss": "0.5"}
    assert condition_of(status, "Complete") == ("True", "Succeeded")
    assert condition_of(status, "Registered") == ("True", "Registered")
    assert kstatus(status, 1) == "Current"


def test_alias_that_points_elsewhere_is_not_claimed() -> None:
    status = status_of(ended(REGISTRY, answers=TrackerAnswers(registered=VERSION)))
    assert "alias" not in status["result"]["registered"]


def test_outage_delays_registration_and_fails_nothing() -> None:
    decision = ended(REGISTRY, answers=TrackerAnswers(tracking_error="mlflow: no answer"))
    assert names(decision) == ["Register"]
    assert status_of(decision)["phase"] == "Registering"
    assert condition_of(decision.status, "Ready") == ("False", "TrackingUnreachable")


@pytest.mark.parametrize("runs", [SUCCEEDED, SILENT, [run(1, "failed")]])
def test_without_a_target_it_is_the_target_that_is_waited_for(runs: Any) -> None:
    """A status that somebody has wiped doesn't say where its runs were tracked."""
    spec = REGISTRY | {"backoffLimit": 0}
    around: JsonObject = {"runs": runs, "target": MISSING_TARGET, "fresh": False}
    asked = ended(spec, **around, answers=TrackerAnswers(tracking_error=MISSING_TARGET.why_not))
    for decision in (ended(spec, **around), asked):
        assert names(decision) in (["Register"], ["FindRun"])
        assert condition_of(decision.status, "Ready") == ("False", "TargetMissing")


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"answered": 1, "noRoom": 9}, "exactMatch and tokenF1 are of 1 of 10 held-out rows: 9"),
        ({"answered": 0, "noRoom": 10}, "no answer is graded of 10 held-out rows: 10 leave no"),
        ({"answered": 4, "noRoom": 0}, ""),
    ],
)
def test_metrics_of_few_rows_say_so(counts: JsonObject, words: str) -> None:
    rows = {"train": {"used": 90}, "evaluation": {"used": 10} | counts}
    told = TRAINED.model_copy(update={"summary": TRAINED.summary | {"rows": rows}})
    status = status_of(ended({}, runs=[run(1, "succeeded", told)]))
    assert status["result"]["rows"]["evaluation"]["answered"] == counts["answered"]
    complete = next(c["message"] for c in status["conditions"] if c["type"] == "Complete")
    assert words in complete
    assert ("no room" in complete) == bool(words)


@pytest.mark.parametrize(
    ("used", "with_loss", "words"),
    [
        (100_000, 2000, "; loss on 2,000 of 100,000 held-out rows"),
        (10, 10, ""),
    ],
)
def test_a_loss_of_some_rows_says_so(used: int, with_loss: int, words: str) -> None:
    rows = {"train": {"used": 90}, "evaluation": {"used": used, "lossRows": with_loss}}
    told = TRAINED.model_copy(update={"summary": TRAINED.summary | {"rows": rows}})
    status = status_of(ended({}, runs=[run(1, "succeeded", told)]))
    assert status["result"]["rows"]["evaluation"]["lossRows"] == with_loss
    complete = next(c["message"] for c in status["conditions"] if c["type"] == "Complete")
    assert complete == f"the run has ended well{words}"


def test_run_that_left_no_word_is_looked_up() -> None:
    assert ended(REGISTRY, runs=SILENT).actions == (FindRun("abcdef0123456789"),)
    answers = TrackerAnswers(run=FOUND_RUN, run_sought=True)
    (register,) = ended(REGISTRY, runs=SILENT, answers=answers).actions
    assert isinstance(register, Register)
    assert register.registration.source == "models:/m-9"


def test_run_without_a_model_fails_the_job() -> None:
    status = status_of(ended(REGISTRY, runs=SILENT, answers=TrackerAnswers(run_sought=True)))
    assert status["phase"] == "Failed"
    assert status["failure"]["reason"] == "ResultMissing"


def test_look_up_that_failed_is_repeated() -> None:
    answers = TrackerAnswers(run_sought=True, tracking_error="no answer")
    assert names(ended(REGISTRY, runs=SILENT, answers=answers)) == ["FindRun"]


def test_result_is_the_newest_attempt_s() -> None:
    """The Job of the attempt that succeeded is gone; an older one is still there."""
    old = Outcome(status="failed", reason="X", summary={"metrics": {"loss": 9}, "modelId": "old"})
    status = tried(attempt(1, "Failed"), attempt(2, "Succeeded"))
    observed = observed_job(
        job(REGISTRY, status=status),
        runs=[run(1, "failed", old)],
        answers=TrackerAnswers(run=FOUND_RUN),
    )
    (register,) = decide(observed, NOW).actions
    assert isinstance(register, Register)
    assert register.registration.source == "models:/m-9"


@pytest.mark.parametrize(("method", "adapter"), [("qlora", True), ("full", False)])
def test_output_model_names_a_base_when_it_is_an_adapter(method: str, adapter: bool) -> None:
    (create,) = ended(BOTH, method, answers=TrackerAnswers(registered=VERSION)).actions
    assert isinstance(create, CreateModel)
    assert ("baseModelRef" in create.manifest["spec"]) == adapter


def test_output_model_is_made_before_the_job_is_complete() -> None:
    decision = ended(BOTH | {"reuse": "Never"}, answers=TrackerAnswers(registered=VERSION))
    (create,) = decision.actions
    assert isinstance(create, CreateModel)
    assert create.manifest["metadata"]["name"] == "out"
    assert "ownerReferences" not in create.manifest["metadata"], "it outlives the job"
    source = {"registry": {"name": "team-tune", "version": 3}}
    assert create.manifest["spec"] == {"source": source, "baseModelRef": {"name": "base"}}
    assert status_of(decision)["result"]["modelRef"] == {"name": "out"}


def test_output_model_without_registry_is_the_job_s_output() -> None:
    (create,) = ended({"output": {"modelName": "out"}}).actions
    assert isinstance(create, CreateModel)
    assert create.manifest["spec"]["source"] == {"fineTuneJob": {"name": "tune"}}


def test_output_model_of_a_run_that_left_no_word_is_what_the_tracker_knows() -> None:
    output: JsonObject = {"output": {"modelName": "out"}}
    asked = ended(output, runs=SILENT)
    assert asked.actions == (FindRun("abcdef0123456789"),)
    assert status_of(asked)["phase"] == "Registering"
    decision = ended(output, runs=SILENT, answers=TrackerAnswers(run=FOUND_RUN, run_sought=True))
    assert names(decision) == ["CreateModel"]
    assert status_of(decision)["result"]["modelUri"] == "models:/m-9"
    # Nobody knows more: the run has ended well all the same.
    nothing = ended(output, runs=SILENT, answers=TrackerAnswers(run_sought=True))
    assert status_of(nothing)["phase"] == "Succeeded"


def test_rival_that_came_while_it_ran_keeps_the_job_open() -> None:
    decision = ended({"output": {"modelName": "out"}}, output_rival="Model out exists already")
    assert decision.actions == ()
    assert status_of(decision)["phase"] == "Registering"
    assert condition_of(decision.status, "Stalled") == ("True", "OutputModelTaken")
    assert decision.requeue_after == 30


def test_a_job_that_waits_after_its_run_writes_nothing_more() -> None:
    """The tracked run shows another step than the run's last word: that is no news."""
    spec: JsonObject = {"output": {"modelName": "out"}}
    tracked = replace(TRACKED, tags=TRACKED.tags | told(1, kubetune_step=10))
    around: JsonObject = {"output_rival": "Model out exists already", "tracked": tracked}
    first = status_of(ended(spec, **around))
    assert "progress" in first
    later = NOW + timedelta(minutes=5)
    again = observed_job(job(spec, status=first), runs=SUCCEEDED, **around)
    assert status_of(decide(again, later)) == first


def test_registers_a_run_s_artifacts() -> None:
    summary: JsonObject = {"runId": "run-1", "experimentId": "7", "artifactPath": "model"}
    outcome = Outcome(status="succeeded", reason="Trained", summary=summary)
    decision = ended(REGISTRY, runs=[run(1, "succeeded", outcome)])
    (register,) = decision.actions
    assert isinstance(register, Register)
    wanted = register.registration
    assert (wanted.experiment_id, wanted.run_id) == ("7", "run-1")
    assert wanted.source == "runs:/run-1/model"
    assert status_of(decision)["result"]["modelUri"] == "runs:/run-1/model"


def test_artifacts_of_a_run_that_left_no_word_are_told_by_its_tags() -> None:
    found = replace(FOUND_RUN, tags={"kubetune.model_path": "model"})
    answers = TrackerAnswers(run=found, run_sought=True)
    (register,) = ended(REGISTRY, runs=SILENT, answers=answers).actions
    assert isinstance(register, Register)
    assert register.registration.source == "runs:/run-1/model"
    assert register.registration.experiment_id == "7"


class TestCml:
    """A target whose results go into the workspace's own registry."""

    def test_the_experiment_is_needed_too(self) -> None:
        """The registry's call names it, and not every outcome does."""
        summary: JsonObject = {"runId": "run-1", "artifactPath": "model"}
        outcome = Outcome(status="succeeded", reason="Trained", summary=summary)
        runs = [run(1, "succeeded", outcome)]
        decision = ended(REGISTRY, runs=runs, target=IN_CML)
        assert decision.actions == (FindRun("abcdef0123456789"),)
        answers = TrackerAnswers(run=FOUND_RUN, run_sought=True)
        (register,) = ended(REGISTRY, runs=runs, target=IN_CML, answers=answers).actions
        assert isinstance(register, Register)
        assert register.registration.experiment_id == "7"
        assert register.registration.source == "runs:/run-1/model"

    def test_the_alias_that_can_not_be_set_is_told(self) -> None:
        status = status_of(
            ended(REGISTRY, target=IN_CML, answers=TrackerAnswers(registered=VERSION))
        )
        assert status["phase"] == "Succeeded"
        assert "alias" not in status["result"]["registered"]
        (message,) = (
            item["message"] for item in status["conditions"] if item["type"] == "Registered"
        )
        assert message == (
            "registered as team-tune version 3; CML's registry has no aliases, so best was not set"
        )

    def test_the_link_is_as_far_as_is_certain(self) -> None:
        status = status_of(ended({}, tracked=TRACKED, target=IN_CML))
        assert status["mlflow"] == {
            "experimentId": "7",
            "runId": "run-1",
            "url": "https://ml.example",
        }

    def test_a_run_without_a_model_is_looked_for_in_the_right_place(self) -> None:
        answers = TrackerAnswers(run_sought=True)
        status = status_of(ended(REGISTRY, runs=SILENT, target=IN_CML, answers=answers))
        assert "the workspace's experiments" in status["failure"]["message"]


class TestReuse:
    """An identical version is adopted instead of training again."""

    def test_the_registry_is_asked_first(self) -> None:
        decision = decide(observed_job(job(BOTH)), NOW)
        (find,) = decision.actions
        digest = status_of(decision)["lineage"]["digest"]
        assert find == FindIdentical("house", digest, None)
        assert status_of(decision)["phase"] == "Preparing"
        assert condition_of(decision.status, "Ready") == ("False", "SeekingIdentical")

    def test_nothing_identical_means_training(self) -> None:
        answers = TrackerAnswers(identical_sought=True)
        assert names(decide(observed_job(job(BOTH), answers=answers), NOW)) == ["StartRun"]

    def test_identical_version_is_adopted(self) -> None:
        answers = TrackerAnswers(identical=VERSION, identical_sought=True)
        decision = decide(observed_job(job(BOTH), answers=answers), NOW)
        status = status_of(decision)
        assert names(decision) == ["CreateModel"]
        assert status["phase"] == "Succeeded"
        assert status["result"]["reused"] is True
        assert status["result"]["modelUri"] == "models:/m-1"
        assert condition_of(status, "Registered") == ("True", "Reused")

    def test_metrics_of_what_is_adopted_are_shown(self) -> None:
        """They stand in a tag of the version, which the job that made it has set."""
        (register,) = ended(REGISTRY).actions
        assert isinstance(register, Register)
        assert json.loads(register.registration.tags["kubetune.metrics"]) == {"eval_loss": 0.5}
        made = replace(VERSION, tags=register.registration.tags)
        answers = TrackerAnswers(identical=made, identical_sought=True)
        status = status_of(decide(observed_job(job(BOTH), answers=answers), NOW))
        assert status["result"]["metrics"] == {"evalLoss": "0.5"}

    def test_what_a_run_measured_counts_before_what_its_code_logged(self) -> None:
        tags = FOUND_RUN.tags | {"kubetune.metrics": '{"exact_match": 0.25}'}
        tracked = replace(FOUND_RUN, tags=tags, metrics={"exact_match": 5.0})
        status = status_of(ended({}, runs=SILENT, tracked=tracked))
        assert status["result"]["metrics"] == {"exactMatch": "0.25"}

    def test_outage_is_waited_for(self) -> None:
        """Training before the registry was asked could cost a GPU for nothing."""
        answers = TrackerAnswers(tracking_error="mlflow: no answer")
        decision = decide(observed_job(job(BOTH), answers=answers), NOW)
        assert names(decision) == ["FindIdentical"]
        assert condition_of(decision.status, "Ready") == ("False", "TrackingUnreachable")
        assert decision.requeue_after == 10

    def test_not_asked_when_it_is_not_wanted(self) -> None:
        assert names(decide(observed_job(job(REGISTRY)), NOW)) == ["StartRun"]
        assert names(decide(observed_job(job({})), NOW)) == ["StartRun"]

    def test_not_asked_after_an_attempt(self) -> None:
        status = tried(attempt(1, "Preempted"))
        observed = observed_job(job(BOTH, status=status), answers=NONE_FINISHED)
        assert names(decide(observed, NOW)) == ["StartRun"]


class TestPromoteWhen:
    @staticmethod
    def gated(*rules: JsonObject) -> JsonObject:
        registry = {"alias": "best", "promoteWhen": list(rules)}
        return {"output": {"registry": registry}, "reuse": "Never"}

    @pytest.mark.parametrize(
        ("rule", "met"),
        [
            ({"metric": "evalLoss", "max": 0.5}, True),
            ({"metric": "evalLoss", "max": 0.4}, False),
            ({"metric": "evalLoss", "min": 0.6}, False),
            ({"metric": "tokenF1", "min": 0}, False),
        ],
        ids=str,
    )
    def test_the_alias_is_asked_for_when_all_rules_are_met(
        self, rule: JsonObject, met: bool
    ) -> None:
        (register,) = ended(self.gated({"metric": "evalLoss", "min": 0.1}, rule)).actions
        assert isinstance(register, Register)
        assert register.registration.alias == ("best" if met else None)

    def test_a_missed_rule_is_told_and_the_version_made_anyway(self) -> None:
        spec = self.gated({"metric": "evalLoss", "max": 0.4})
        status = status_of(ended(spec, answers=TrackerAnswers(registered=VERSION)))
        assert status["phase"] == "Succeeded"
        assert condition_of(status, "Promoted") == ("False", "NotPromoted")
        assert "evalLoss 0.5 is above 0.4" in str(status["conditions"])
        assert "alias" not in status["result"]["registered"]

    def test_who_got_the_alias_is_promoted(self) -> None:
        spec = self.gated({"metric": "evalLoss", "max": 0.9})
        version = replace(VERSION, aliases=("best",))
        status = status_of(ended(spec, answers=TrackerAnswers(registered=version)))
        assert condition_of(status, "Promoted") == ("True", "Promoted")
        newer = status_of(ended(spec, answers=TrackerAnswers(registered=VERSION)))
        assert condition_of(newer, "Promoted") == ("False", "NotPromoted")

    def test_an_adopted_version_does_not_get_it_unseen(self) -> None:
        spec = self.gated({"metric": "evalLoss", "max": 0.9}) | {"reuse": "IfIdentical"}
        (sought,) = decide(observed_job(job(spec)), NOW).actions
        assert isinstance(sought, FindIdentical)
        assert sought.alias is None
        answers = TrackerAnswers(identical=VERSION, identical_sought=True)
        status = status_of(decide(observed_job(job(spec), answers=answers), NOW))
        assert condition_of(status, "Promoted") == ("False", "NotPromoted")

    def test_a_registry_without_aliases_is_told(self) -> None:
        spec = self.gated({"metric": "evalLoss", "max": 0.9})
        answers = TrackerAnswers(registered=VERSION)
        status = status_of(ended(spec, answers=answers, target=IN_CML))
        assert condition_of(status, "Promoted") == ("False", "RegistryWithoutAliases")

    def test_without_rules_nothing_is_said(self) -> None:
        status = status_of(ended(REGISTRY, answers=TrackerAnswers(registered=VERSION)))
        assert condition_of(status, "Promoted") is None


def test_metrics_are_bounded_and_text() -> None:
    many: JsonObject = {f"m{n:03}": n / 3 for n in range(100)} | {"kubetune_step": 5, "note": "x"}
    outcome = Outcome(status="succeeded", reason="Trained", summary={"metrics": many})
    result = status_of(ended({}, runs=[run(1, "succeeded", outcome)]))["result"]
    assert len(result["metrics"]) == 64
    assert result["metrics"]["m001"] == "0.3333"


def test_progress_at_the_end_has_no_time_left() -> None:
    tracked: TrackedRun = TRACKED
    status = status_of(ended({}, tracked=tracked, runs=SUCCEEDED))
    assert status["progress"]["step"] == 50
    assert "eta" not in status["progress"]
    assert "etaSeconds" not in status["progress"]
    assert status["mlflow"]["url"] == "http://mlflow:5000/#/experiments/7/runs/run-1"


def test_the_result_counts_rows() -> None:
    counts = {"used": 90, "empty": 2, "cut": 1, "cutAway": 0, "dropped": 3}
    summary: dict[str, Any] = dict(TRAINED.summary) | {
        "rows": {"train": counts, "evaluation": {"odd": "x"}}
    }
    outcome = Outcome(status="succeeded", reason="Trained", summary=summary)
    status = status_of(ended({}, runs=[run(1, "succeeded", outcome)]))
    assert status["result"]["rows"] == {"train": counts}
