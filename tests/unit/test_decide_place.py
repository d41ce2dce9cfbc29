"""Where runs were started: what a record means later, and when an object goes without its runs."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, condition_of, job, names, observed_job, resource, run, target, tried
from kubetune.api import JsonObject
from kubetune.api.conditions import Phase
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.decide.decision import AbandonRuns, DeleteRuns, Record, ReleaseFinalizer
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.resources import Target, TargetProblem
from kubetune.decide.target.place import before_start, has_moved, place_of, record
from kubetune.decide.target.states import ObservedTarget, TrackingProbe
from kubetune.decide.target.states import decide as decide_target
from kubetune.names import ABANDON_RUNS, IN_USE

WORKSPACE: JsonObject = {
    "url": "https://cml.example",
    "project": "tuning",
    "apiKeySecretRef": {"name": "key"},
    "runtime": {"kernel": "Python 3.11"},
}
TRACKING: JsonObject = {"uri": "http://mlflow:5000", "credentialsSecretRef": {"name": "mlflow"}}


def at(cml: JsonObject | None = None, **tracking: Any) -> Target:
    """The target ``main``, in CML or in the cluster."""
    given: JsonObject = {"tracking": TRACKING | tracking}
    if cml is not None:
        given |= {"kubernetes": None, "cml": WORKSPACE | cml}
    return target(True, **given)


def spec(cml: JsonObject | None = None, **tracking: Any) -> ComputeTargetSpec:
    found = at(cml, **tracking).spec
    assert found
    return found


EXTERNAL = record(at({}), "team") | {"projectId": "id-of-tuning", "jobId": "1"}


@pytest.mark.parametrize(
    ("present", "project", "secret"),
    [
        (None, "id-of-tuning", "key"),
        (spec(), "id-of-tuning", "key"),
        (spec({}), "tuning", "key"),
        (spec({"apiKeySecretRef": {"name": "rotated"}}), "tuning", "rotated"),
        (spec({"project": "another", "apiKeySecretRef": {"name": "b"}}), "id-of-tuning", "key"),
        (spec({"url": "https://two.example"}), "id-of-tuning", "key"),
    ],
    ids=["gone", "in the cluster", "same", "rotated key", "another project", "another workspace"],
)
def test_the_place_is_the_recorded_one(
    present: ComputeTargetSpec | None, project: str, secret: str
) -> None:
    place = place_of(EXTERNAL, present)
    assert place
    assert place.cml
    assert (place.cml.url, place.cml.project) == ("https://cml.example", project)
    assert place.cml.api_key_secret_ref.name == secret


@pytest.mark.parametrize(
    ("present", "secret"),
    [
        (None, "mlflow"),
        (spec({}, credentialsSecretRef={"name": "new"}), "new"),
        (spec({}, uri="http://other:5000", credentialsSecretRef={"name": "new"}), "mlflow"),
        (spec({}, experiment="another"), "mlflow"),
    ],
)
def test_a_run_reports_to_its_own_server(present: ComputeTargetSpec | None, secret: str) -> None:
    place = place_of(EXTERNAL, present)
    assert place
    tracking = place.tracking
    assert (tracking.uri, tracking.experiment) == ("http://mlflow:5000", "kubetune-team")
    assert tracking.credentials_secret_ref
    assert tracking.credentials_secret_ref.name == secret


@pytest.mark.parametrize(
    "external", [{}, {"target": "ComputeTarget/main"}, {"type": "cml"}, EXTERNAL | {"cml": {}}]
)
def test_what_is_no_record_leads_nowhere(external: JsonObject) -> None:
    assert place_of(external, spec({})) is None


def test_a_new_attempt_elsewhere_leaves_nothing_where_the_old_ones_were() -> None:
    started, now = place_of(EXTERNAL, None), at()
    external, actions = before_start(EXTERNAL, started, now, "team", ["k"], Phase.QUEUED)
    assert external == record(now, "team")
    assert actions == [
        DeleteRuns("k", settled=True, elsewhere=started, needed=False),
        Record("external", external),
    ]
    there = place_of(EXTERNAL, spec({}))
    again, actions = before_start(EXTERNAL, there, at({}), "team", ["k"], Phase.QUEUED)
    assert (again, actions) == (EXTERNAL, [])


def test_who_was_suspended_says_that_it_is_no_more_before_a_run_starts() -> None:
    """Nothing is held for one that is suspended, also after a crash between run and status."""
    there = place_of(EXTERNAL, spec({}))
    _, actions = before_start(EXTERNAL, there, at({}), "team", ["k"], Phase.SUSPENDED)
    assert actions == [Record("phase", "Queued")]
    here = at()
    known = record(here, "team")
    assert (
        before_start(known, place_of(known, here.spec), here, "team", ["k"], Phase.SUSPENDED)[1]
        == []
    )


def test_what_counts_as_moved() -> None:
    started = place_of(EXTERNAL, None)
    assert started
    started = place_of(record(at({}), "team"), None) or started
    assert not has_moved(started, spec({"apiKeySecretRef": {"name": "rotated"}}), "team")
    assert has_moved(started, spec({"project": "another"}), "team")
    assert has_moved(started, spec(), "team")
    assert has_moved(started, spec({}, experiment="another"), "team")
    assert has_moved(started, spec({}, uri="http://other:5000"), "team")


AWAY = TargetProblem("TargetUnreachable", "https://cml.example: no answer")
GONE = TargetProblem("CredentialsInvalid", "https://cml.example: there is no Secret key")
MINUTE = timedelta(seconds=60)


def deleted(phase: str, problem: TargetProblem | None = None, **fields: Any) -> list[str]:
    annotations = {ABANDON_RUNS: "true"} if fields.pop("forced", False) else {}
    since = NOW - fields.pop("since", timedelta())
    status = tried(phase=phase)
    given = job(status=status, deleting=True, deleted=since, annotations=annotations)
    observed = observed_job(given, target=at({}), target_problem=problem, **fields)
    return names(decide(observed, NOW))


@pytest.mark.parametrize(
    ("actions", "decided"),
    [
        ([], deleted("Running", AWAY)),
        ([], deleted("Running", AWAY, since=MINUTE)),
        ([], deleted("Running", GONE, since=MINUTE)),
        (["AbandonRuns", "ReleaseFinalizer"], deleted("Running", AWAY, forced=True)),
        ([], deleted("Succeeded", AWAY)),
        (["AbandonRuns", "ReleaseFinalizer"], deleted("Succeeded", AWAY, since=MINUTE)),
        (["AbandonRuns", "ReleaseFinalizer"], deleted("Succeeded", GONE)),
        (["ReleaseFinalizer"], deleted("Pending", AWAY, started=None)),
        ([], deleted("Suspended", AWAY)),
        (["AbandonRuns", "ReleaseFinalizer"], deleted("Suspended", GONE)),
        (["DeleteRuns", "ReleaseFinalizer"], deleted("Suspended")),
        (["DeleteRuns", "ReleaseFinalizer"], deleted("Succeeded")),
        (["StopRuns"], deleted("Running", runs=[run(1, "running")], forced=True)),
        (
            ["AbandonRuns", "ReleaseFinalizer"],
            deleted("Running", runs=[run(1, "stopping")], forced=True),
        ),
    ],
)
def test_when_a_deleted_job_goes(actions: list[str], decided: list[str]) -> None:
    assert decided == actions


@pytest.mark.parametrize(("before", "after"), [("Running", "Stopping"), ("Failed", "Failed")])
def test_deletion_takes_no_verdict_back(before: str, after: str) -> None:
    given = job(status=tried(phase=before), deleting=True, deleted=NOW)
    decision = decide(observed_job(given, target=at({}), runs=[run(1, "running")]), NOW)
    assert names(decision) == ["StopRuns"]
    assert (decision.status or {})["phase"] == after


def test_a_deleted_job_says_that_it_is_over_before_it_lets_go() -> None:
    given = job(status=tried(phase="Stopping"), deleting=True, deleted=NOW)
    decision = decide(observed_job(given, target=at({}), runs=[run(1, "stopped")]), NOW)
    assert decision.actions[-2:] == (Record("phase", "Cancelled"), ReleaseFinalizer())
    # Or the write of the status would take it back.
    assert (decision.status or {})["phase"] == "Cancelled"


def test_whoever_waits_says_how_to_let_it_go() -> None:
    given = job(status=tried(), deleting=True, deleted=NOW)
    decision = decide(observed_job(given, target=at({}), target_problem=AWAY), NOW)
    message = next(
        item["message"]
        for item in (decision.status or {})["conditions"]
        if item["type"] == "TargetAvailable"
    )
    assert f"kubectl annotate finetunejob tune -n team {ABANDON_RUNS}=true" in message


def held(**fields: Any) -> ObservedTarget:
    cml = {"cml": WORKSPACE, "tracking": TRACKING}
    given = resource("ComputeTarget", "main", cml, finalizers=(IN_USE,), **fields)
    return ObservedTarget(given, None, TrackingProbe(version="3"), 300)


def test_a_deleted_target_stays_while_it_is_needed() -> None:
    users = [f"FineTuneJob team/{name}" for name in "abcdefg"]
    decision = decide_target(replace(held(deleting=True), users=users), NOW)
    assert decision.actions == ()
    assert condition_of(decision.status, "InUse") == ("True", "RunsLeft")
    assert condition_of(decision.status, "Ready") == ("True", "Ready"), "other attempts may start"
    message = next(
        item["message"] for item in (decision.status or {})["conditions"] if item["type"] == "InUse"
    )
    assert "team/e and 2 more" in message
    assert f"-n team {ABANDON_RUNS}=true" in message


def test_a_target_is_let_go_when_nobody_needs_it_or_somebody_insists() -> None:
    decision = decide_target(held(), NOW)
    assert names(decision) == ["ReleaseTarget"]
    # No event of our own write brings it back: it is looked at in the same go.
    assert condition_of(decision.status, "Ready") == ("True", "Ready")
    assert decision.requeue_after == 300
    assert names(decide_target(held(deleting=True), NOW)) == ["ReleaseTarget"]
    forced = held(deleting=True, annotations={ABANDON_RUNS: "true"})
    forced = replace(forced, users=["FineTuneJob team/a"])
    assert names(decide_target(forced, NOW)) == ["ReleaseTarget"]
    # On one that is not deleted the annotation does nothing.
    kept = replace(held(annotations={ABANDON_RUNS: "true"}), users=["FineTuneJob team/a"])
    assert names(decide_target(kept, NOW)) == []


def test_what_is_left_is_named() -> None:
    given = job(status=tried(), deleting=True, deleted=NOW, annotations={ABANDON_RUNS: "true"})
    observed = observed_job(given, target=at({}), target_problem=AWAY)
    assert decide(observed, NOW).actions == (
        AbandonRuns(observed.run_key, AWAY.message),
        ReleaseFinalizer(),
    )
