"""What a Model waits for and whether it fits its declaration: one table of named cases."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    MODEL_FOUND,
    NOW,
    condition,
    facts,
    job,
    kstatus,
    model,
    names,
    ready,
    ready_reason,
    resource,
    run,
    target,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.decide.inspected.inspection import inspection_key
from kubetune.decide.inspected.model import ObservedModel, decide, inspection_of, registered_version
from kubetune.decide.resources import Resource

BASE = Outcome(status="succeeded", reason="Inspected", summary=MODEL_FOUND)
ADAPTER_FOUND = MODEL_FOUND | {"type": "adapter", "baseModel": "org/base"}
ADAPTER = Outcome(status="succeeded", reason="Inspected", summary=ADAPTER_FOUND)
WITH_BASE: JsonObject = {"baseModelRef": {"name": "base"}}
OF_JOB: JsonObject = {"source": {"fineTuneJob": {"name": "tune"}}}
REGISTERED = {"result": {"registered": {"name": "team-tune", "version": 3}}}
COMPLETE = {"conditions": [condition("Complete")]}


@dataclass
class Case:
    name: str
    because: str
    model: Resource[Any, Any]
    ready: tuple[str, str]
    verdict: str
    actions: list[str] = field(default_factory=list[str])
    around: JsonObject = field(default_factory=dict[str, Any])
    runs: list[Any] = field(default_factory=list[Any])


CASES = [
    Case(
        "unreadable",
        "only the user can repair the spec",
        resource("Model", "m", None),
        ("False", "InvalidSpec"),
        "Failed",
    ),
    Case(
        "new", "nothing was read yet", model(), ("False", "Inspecting"), "InProgress", ["StartRun"]
    ),
    Case(
        "no job",
        "it may follow in the same manifest",
        model(OF_JOB),
        ("False", "FineTuneJobMissing"),
        "InProgress",
    ),
    Case(
        "job not complete",
        "there is nothing to read before its end",
        model(OF_JOB),
        ("False", "FineTuneJobNotComplete"),
        "InProgress",
        around={"job": job()},
    ),
    Case(
        "job failed",
        "it never makes a model",
        model(OF_JOB),
        ("False", "FineTuneJobWithoutOutput"),
        "Failed",
        around={"job": job(status={"conditions": [condition("Failed")]})},
    ),
    Case(
        "job without output",
        "it is complete and left nothing to load",
        model(OF_JOB),
        ("False", "FineTuneJobWithoutOutput"),
        "Failed",
        around={"job": job(status=COMPLETE)},
    ),
    Case(
        "job complete",
        "its registered version is read",
        model(OF_JOB),
        ("False", "Inspecting"),
        "InProgress",
        ["StartRun"],
        around={"job": job(status=COMPLETE | REGISTERED)},
    ),
    Case(
        "no base",
        "it may follow in the same manifest",
        model(WITH_BASE, name="adapter"),
        ("False", "ModelMissing"),
        "InProgress",
    ),
    Case(
        "base not ready",
        "an adapter is read together with its base",
        model(WITH_BASE, name="adapter"),
        ("False", "ModelNotReady"),
        "InProgress",
        around={"base": model()},
    ),
    Case(
        "base is an adapter",
        "adapters on adapters can't be loaded",
        model(WITH_BASE, name="adapter"),
        ("False", "BaseModelMismatch"),
        "Failed",
        around={"base": ready(model(), **ADAPTER_FOUND)},
    ),
    Case(
        "whole model",
        "found and as declared",
        model(),
        ("True", "Inspected"),
        "Current",
        ["DeleteRuns"],
        runs=[run(1, "succeeded", BASE)],
    ),
    Case(
        "adapter without a base",
        "weights alone can't be loaded",
        model(),
        ("False", "BaseModelNeeded"),
        "Failed",
        ["DeleteRuns"],
        runs=[run(1, "succeeded", ADAPTER)],
    ),
    Case(
        "adapter on its base",
        "found and as declared",
        model(WITH_BASE, name="adapter"),
        ("True", "Inspected"),
        "Current",
        ["DeleteRuns"],
        around={"base": ready(model(), **MODEL_FOUND)},
        runs=[run(1, "succeeded", ADAPTER)],
    ),
    Case(
        "whole model with a base",
        "one of both statements is wrong",
        model(WITH_BASE, name="adapter"),
        ("False", "BaseModelNotUsed"),
        "Failed",
        ["DeleteRuns"],
        around={"base": ready(model(), **MODEL_FOUND)},
        runs=[run(1, "succeeded", BASE)],
    ),
    Case(
        "registry of another kind",
        "runs reach the target's own registry alone",
        model({"source": {"registry": {"provider": "cml", "name": "n", "version": 1}}}),
        ("False", "RegistryProviderMismatch"),
        "Failed",
    ),
    Case(
        "registry of the target's kind",
        "that is what is meant without a provider too",
        model({"source": {"registry": {"provider": "mlflow", "name": "n", "version": 1}}}),
        ("False", "Inspecting"),
        "InProgress",
        ["StartRun"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_model(case: Case) -> None:
    decision = decide(ObservedModel(case.model, facts(runs=case.runs), **case.around), NOW)
    assert ready_reason(decision) == case.ready, case.because
    assert kstatus(decision.status or {}, 1) == case.verdict, case.because
    assert names(decision) == case.actions, case.because


def _inspected(spec: JsonObject | None, outcome: Outcome) -> Any:
    observed = ObservedModel(model(spec), facts(runs=[run(1, "succeeded", outcome)]))
    return decide(observed, NOW).status or {}


def test_inspected_model_needs_neither_base_nor_job_any_more() -> None:
    status = _inspected(None, BASE)
    spec = OF_JOB | WITH_BASE
    decision = decide(ObservedModel(model(spec, status=status), facts()), NOW)
    assert (decision.status, decision.actions) == (None, ())


def test_run_that_is_left_over_is_deleted_and_the_status_kept() -> None:
    status = _inspected(None, BASE)
    left = facts(runs=[run(1, "succeeded", BASE)])
    decision = decide(ObservedModel(model(WITH_BASE, status=status), left), NOW)
    assert decision.status is None
    assert names(decision) == ["DeleteRuns"]


def test_misfit_keeps_its_transition_time() -> None:
    status = _inspected(None, ADAPTER)
    later = NOW + timedelta(hours=1)
    assert decide(ObservedModel(model(status=status), facts()), later).status == status


@pytest.mark.parametrize(
    ("source", "line", "uri"),
    [
        ({"registry": {"name": "n", "version": 2}}, "models:/n/2", "models:/n/2"),
        ({"registry": {"name": "n", "alias": "best"}}, "models:/n@best", "models:/n@best"),
        ({"volume": {"claimName": "v", "path": "m"}}, "pvc://v/m", None),
        ({"huggingFace": {"repo": "o/m"}}, "hf://o/m@main", None),
    ],
)
def test_each_source_has_a_line(source: JsonObject, line: str, uri: str | None) -> None:
    observed = ObservedModel(model({"source": source}), facts())
    assert (decide(observed, NOW).status or {})["source"] == line
    plan = inspection_of(observed)[0].model
    assert plan is not None
    assert plan.registry_uri == uri


def test_version_on_another_server_is_another_model() -> None:
    def key(spec: JsonObject, uri: str) -> str:
        elsewhere = facts(target=target(tracking={"uri": uri}))
        return inspection_key(*inspection_of(ObservedModel(model(spec), elsewhere)))

    version = {"source": {"registry": {"name": "n", "version": 1}}}
    assert key(version, "http://one:5000") != key(version, "http://two:5000")
    assert key({}, "http://one:5000") == key({}, "http://two:5000")


LEFT = {"jobOutput": {"name": "tune", "uri": "models:/m-1"}}


def test_a_model_keeps_what_its_job_has_left() -> None:
    left = {"result": {"modelUri": "models:/m-1"}}
    done = job(status=COMPLETE | left)
    first = decide(ObservedModel(model=model(OF_JOB), facts=facts(), job=done), NOW)
    assert (first.status or {})["jobOutput"] == LEFT["jobOutput"]
    busy = decide(ObservedModel(model=model(OF_JOB), facts=facts(), job=job(status=left)), NOW)
    assert "jobOutput" not in (busy.status or {}), "its job isn't complete"


def test_a_model_outlives_its_job() -> None:
    decision = decide(ObservedModel(model=model(OF_JOB, status=LEFT), facts=facts(), job=None), NOW)
    assert names(decision) == ["StartRun"]
    assert decision.status is not None
    assert decision.status["jobOutput"] == LEFT["jobOutput"]
    other = {"jobOutput": {"name": "other", "uri": "models:/m-1"}}
    waiting = decide(ObservedModel(model=model(OF_JOB, status=other), facts=facts(), job=None), NOW)
    assert ready_reason(waiting) == ("False", "FineTuneJobMissing")


@pytest.mark.parametrize(
    ("uri", "version"),
    [
        ("models:/team-tune/3", {"name": "team-tune", "version": 3}),
        ("models:/m-1", None),
        ("models:/team-tune@best", None),
    ],
)
def test_a_model_outlives_the_job_that_registered_it(uri: str, version: Any) -> None:
    kept = model(OF_JOB, status={"jobOutput": {"name": "tune", "uri": uri}})
    assert registered_version(kept, None) == version
