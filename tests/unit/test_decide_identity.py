"""What is restored on an object whose owner's tools remove it."""

from dataclasses import replace
from typing import Any

import pytest
from builders import KEYS, NOW, RUN_KEY, attempt, facts, job, observed_job, run, target, tried
from builders import model as a_model
from evaluation_objects import evaluation
from kubetune.decide.decision import Decision, Stamp, TieToJob
from kubetune.decide.evaluation.observed import ObservedCandidate, ObservedEvaluation
from kubetune.decide.fine_tune_job import states as fine_tune_job
from kubetune.decide.identity import with_finalizer
from kubetune.decide.inspected.model import ObservedModel, decide
from kubetune.keys import Keyring
from kubetune.names import JOB, MARK, new_run_key
from kubetune.observe.cache import ObjectCache
from kubetune.observe.run_keys import RunKeys

CML = target(
    kubernetes=None,
    cml={
        "url": "https://cml.example",
        "project": "team/tuning",
        "apiKeySecretRef": {"name": "cml"},
        "runtime": {"kernel": "Python 3.11"},
    },
)
RESTORED = Stamp(finalizer=True, run_key=RUN_KEY)
RUNNING = tried(attempt(1, "Running"))


def stamps(**fields: Any) -> list[Stamp]:
    decision = fine_tune_job.decide(observed_job(**fields), NOW)
    return [action for action in decision.actions if isinstance(action, Stamp)]


@pytest.mark.parametrize("lost", [{"stamped": False}, {"recorded": False}])
@pytest.mark.parametrize(
    ("spec", "status", "runs"),
    [
        ({}, RUNNING, [run(1, "running")]),
        ({}, RUNNING, [run(1, "pending")]),
        ({"suspend": True}, RUNNING, [run(1, "running")]),
        ({"suspend": True}, tried(attempt(1, "Stopped"), phase="Suspended"), []),
        ({}, tried(attempt(1, "Failed", reason="Crashed"), phase="Queued"), []),
        ({}, {}, []),
    ],
)
def test_what_a_replacement_took_is_restored(
    spec: dict[str, Any], status: dict[str, Any], runs: list[Any], lost: dict[str, Any]
) -> None:
    given = job(spec, status=status)
    around = {"given": given, "runs": runs, "fresh": False}
    assert stamps(**around, **lost) == [RESTORED]
    assert stamps(**around) == []


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize(("live", "needed"), [(True, True), (False, False)])
def test_a_finished_job_has_a_finalizer_only_while_something_runs(
    phase: str, live: bool, needed: bool
) -> None:
    status = tried(attempt(1, phase), phase=phase, completionTime="2026-01-02T03:00:00Z")
    observed = observed_job(job(status=status), stamped=False, runs=[run(1, "running")] * live)
    bare = replace(observed, job=replace(observed.job, finalizers=()))
    assert (Stamp(finalizer=True) in fine_tune_job.decide(bare, NOW).actions) is needed


@pytest.mark.parametrize(("runs", "needed"), [([run(1, "failed")], True), ([], False)])
def test_an_evaluation_in_cml_has_a_finalizer_while_it_has_jobs_there(
    runs: list[Any], needed: bool
) -> None:
    candidate = ObservedCandidate("tuned", "tuned", runs=runs, run_key=RUN_KEY)
    observed = ObservedEvaluation(evaluation("tuned"), "install", KEYS, CML, [candidate])
    assert (Stamp(finalizer=True) in with_finalizer(observed, Decision()).actions) is needed
    here = replace(observed, target=target())
    assert with_finalizer(here, Decision()) == Decision()


@pytest.mark.parametrize(
    ("annotation", "known", "tie"),
    [
        ("tune", None, ()),
        (None, "tune", (TieToJob("tune"),)),
        ("other", "tune", (TieToJob("tune"),)),
    ],
)
def test_a_model_stays_tied_to_its_job(
    annotation: str | None, known: str | None, tie: tuple[TieToJob, ...]
) -> None:
    given = a_model(
        annotations={JOB: annotation} if annotation else {},
        status={"madeBy": known} if known else {},
    )
    decision = decide(ObservedModel(given, facts()), NOW)
    assert decision.status is not None
    assert decision.status["madeBy"] == "tune"
    assert tuple(a for a in decision.actions if isinstance(a, TieToJob)) == tie


def batch_job(key: str, attempt_: int, uid: str, *, ended: bool = False) -> dict[str, Any]:
    conditions = [{"type": "Complete", "status": "True"}] if ended else []
    owner = {"kind": "FineTuneJob", "name": "tune", "uid": uid, "controller": True}
    metadata = {
        "name": f"tune-{key}-{attempt_}",
        "namespace": "team",
        "uid": f"{key}-{attempt_}",
        "resourceVersion": "5",
        "creationTimestamp": f"2026-01-02T03:00:0{attempt_}Z",
        "ownerReferences": [owner],
        "annotations": {MARK: KEYS.code("Job", "team", f"tune-{key}-{attempt_}")},
    }
    return {"kind": "Job", "metadata": metadata, "spec": {}, "status": {"conditions": conditions}}


def test_a_run_key_is_found_wherever_it_is_left() -> None:
    cache = ObjectCache()
    keys = RunKeys(cache, KEYS, "install")
    first, second = (new_run_key(KEYS, "install", "team", "tune") for _ in range(2))
    foreign = new_run_key(KEYS, "install", "team", "another")
    uid = job().owner.uid

    def found(status: str = "", annotation: str = "") -> str | None:
        keys.forget("team", "tune")
        annotations = {"kubetune.io/run-key": annotation} if annotation else {}
        return keys.of(job(status={"runKey": status}, annotations=annotations))

    assert found() is None
    assert found(foreign, foreign) is None, "made for another object"
    forged = new_run_key(Keyring((("1", b"b" * 32),)), "install", "team", "tune")
    assert found(forged, forged) is None, "made with another key"
    assert found(first) == found(annotation=first) == found(foreign, first) == first
    assert found(first, second) == first, "no user's PUT reaches the status"
    cache.put(batch_job(second, 1, uid, ended=True))
    assert found() == second
    assert found(first) == first
    cache.put(batch_job(foreign, 2, uid))
    assert found(first) == first
    for attempt_, change in ((5, {"namespace": "another"}), (6, {"annotations": {}})):
        copied = batch_job(second, attempt_, uid)
        cache.put(copied | {"metadata": copied["metadata"] | change})
        assert found(first) == first, "not made for it, whatever it says"
    cache.put(batch_job(second, 3, uid))
    assert found(first) == second, "a run that lives is never forgotten"
    cache.put(batch_job(second, 4, "another uid"))
    assert keys.of(job(status={})) == second, "seen before"
