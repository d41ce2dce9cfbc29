"""Valid objects and observations for the tests of kubetune.decide, changed by keyword."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.conditions import ConditionType
from kubetune.api.kinds.table import BY_KIND
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import Decision, Record, rfc3339
from kubetune.decide.fine_tune_job.observed import ObservedJob, TrackerAnswers
from kubetune.decide.inspected.shared import InspectionFacts
from kubetune.decide.resources import Resource, Target
from kubetune.decide.target.place import place_of, record
from kubetune.keys import Keyring
from kubetune.names import FINALIZER
from kubetune.targets.values import FINISHED, Owner, RunPhase, RunState
from kubetune.tracking.base import RegisteredVersion, TrackedRun

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN_KEY = "abcdef0123456789"
KEYS = Keyring((("1", b"a" * 32),))
COMMIT = "c0ffee"


def ago(seconds: float) -> str:
    """A timestamp before NOW."""
    return rfc3339(NOW - timedelta(seconds=seconds))


def condition(kind: str, status: str = "True", **fields: Any) -> JsonObject:
    given = {"reason": "Given", "message": "as given", "lastTransitionTime": ago(60)}
    return {"type": kind, "status": status, "observedGeneration": 1, **given, **fields}


def resource(kind: str, name: str, spec: JsonObject | None, **fields: Any) -> Resource[Any, Any]:
    """An object of a kind; ``spec`` None is one that can't be read."""
    namespace = "" if kind.startswith("Cluster") else "team"
    given: JsonObject = {
        "owner": Owner(API_VERSION, kind, namespace, name, f"uid-{kind}-{name}".lower()),
        "generation": 1,
        "created": NOW - timedelta(hours=1),
        "deleting": False,
        "annotations": {},
        "finalizers": (),
        "labels": {},
        "spec": None if spec is None else BY_KIND[kind].spec.model_validate(spec),
        "problem": "spec.source: field required" if spec is None else "",
        "status": {},
    }
    return Resource(**(given | fields))


def ready(given: Resource[Any, Any], **status: Any) -> Resource[Any, Any]:
    """The object once it is Ready."""
    proof = {"observedGeneration": given.generation, "conditions": [condition("Ready")]}
    return replace(given, status=given.status | proof | status)


def target(ready: bool = True, **spec: Any) -> Target:
    given: JsonObject = {
        "kubernetes": {"image": "registry.example/runner:1"},
        "tracking": {"uri": "http://mlflow:5000"},
    }
    parsed = BY_KIND["ComputeTarget"].spec.model_validate(given | spec)
    why_not = "" if ready else "ComputeTarget main is not Ready; TrackingUnreachable: no answer"
    return Target("ComputeTarget", "main", parsed, ready, why_not)  # type: ignore[arg-type]


NONE_FINISHED = TrackerAnswers(run_sought=True)
"""The tracking server was asked, and has no finished run of the job."""
MISSING_TARGET = Target("ComputeTarget", "main", None, False, "waiting for ComputeTarget main")
INLINE: JsonObject = {"inline": {"rows": [{"prompt": "a", "completion": "b"}]}}
COLUMNS = [{"name": "prompt", "type": "string"}, {"name": "completion", "type": "string"}]
DATASET_FOUND: JsonObject = {
    "digest": "sha256:d1",
    "splitDigest": "sha256:s1",
    "rows": {"train": 90, "evaluation": 10},
    "columns": COLUMNS,
    "columnsTruncated": False,
    "problems": [],
    "problemCount": 0,
}
MODEL_FOUND: JsonObject = {
    "type": "base",
    "revision": COMMIT,
    "architecture": "LlamaForCausalLM",
    "modelType": "llama",
    "contextLength": 2048,
    "chatTemplate": True,
}


def dataset(spec: JsonObject | None = None, **fields: Any) -> Resource[Any, Any]:
    return resource("Dataset", "tickets", {"source": INLINE} | (spec or {}), **fields)


def model(spec: JsonObject | None = None, name: str = "base", **fields: Any) -> Resource[Any, Any]:
    source = {"source": {"huggingFace": {"repo": "org/base"}}}
    return resource("Model", name, source | (spec or {}), **fields)


def prompt(spec: JsonObject | None = None, **fields: Any) -> Resource[Any, Any]:
    texts = {"prompt": "Q: {prompt}", "completion": "{completion}"}
    return resource("PromptTemplate", "plain", texts | (spec or {}), **fields)


def job(spec: JsonObject | None = None, **fields: Any) -> Resource[Any, Any]:
    references: JsonObject = {"modelRef": {"name": "base"}, "datasetRef": {"name": "tickets"}}
    return resource("FineTuneJob", "tune", references | (spec or {}), **fields)


def facts(**fields: Any) -> InspectionFacts:
    given: JsonObject = {
        "install_id": "install",
        "keys": KEYS,
        "target": target(),
        "runs": (),
    }
    return InspectionFacts(**(given | fields))


def observed_job(given: Resource[Any, Any] | None = None, **fields: Any) -> ObservedJob:
    """A job with ready inputs; stamped and with a record of its target unless it says otherwise.

    It is fresh before its first run.
    """
    fields.setdefault("fresh", not ((given and given.status) or fields.get("runs")))
    stamped = replace(given or job(), finalizers=(FINALIZER,))
    place = fields.get("target", target())
    if "started" not in fields and place.spec is not None:
        external = record(place, "team") | (stamped.status.get("external") or {})
        if "completionTime" not in stamped.status:
            stamped = replace(stamped, status=stamped.status | {"external": external})
        fields["started"] = place_of(external, place.spec)
    everything: JsonObject = {
        "job": stamped,
        "install_id": "install",
        "run_key": RUN_KEY,
        "stamped": True,
        "target": target(),
        "model": ready(model(), **MODEL_FOUND),
        "dataset": ready(dataset(), **DATASET_FOUND),
    }
    return ObservedJob(**(everything | fields))


def run(attempt: int, phase: RunPhase, outcome: Outcome | None = None, **fields: Any) -> RunState:
    """An attempt on the target; it ended now, when it has."""
    ended = NOW if phase in FINISHED else None
    given: JsonObject = {
        "started_at": NOW - timedelta(seconds=30),
        "ended_at": ended,
        "external": {"jobId": f"team/tune-{attempt}"},
    }
    return RunState(attempt, f"tune-{attempt}", phase, outcome=outcome, **(given | fields))


def attempt(number: int, result: str, **fields: Any) -> JsonObject:
    """An attempt in status."""
    given = {"number": number, "job": f"tune-{number}", "result": result, "startTime": ago(90)}
    return {**given, **fields}


def tried(*attempts: JsonObject, phase: str = "Running", **fields: Any) -> JsonObject:
    """The status of a job with these attempts, as the operator has written it."""
    results = [item["result"] for item in attempts]
    counts = {
        "total": max((item["number"] for item in attempts), default=0),
        "failed": results.count("Failed"),
        "preempted": results.count("Preempted"),
    }
    given: JsonObject = {
        "observedGeneration": 1,
        "phase": phase,
        "startTime": ago(90),
        "attempts": list(attempts),
        "counts": counts,
        "conditions": [condition("Ready", "False")],
    }
    return given | fields


def told(attempt: int, **values: float) -> dict[str, str]:
    """The tags in which an attempt tells how far it is."""
    progress = json.dumps({"attempt": attempt} | values)
    return {"kubetune.attempt": str(attempt), "kubetune.progress": progress}


TRAINED = Outcome(
    status="succeeded",
    reason="Trained",
    summary={"modelId": "m-1", "runId": "run-1", "metrics": {"eval_loss": 0.5}},
)
REFUSED = Outcome(status="failed", reason="RowShape", message="row 3 has no answer")
CRASHED = Outcome(status="failed", reason="OutOfMemory", message="too big", retryable=True)
VERSION = RegisteredVersion("team-tune", 3, "run-1", "models:/m-1", "READY")
TRACKED = TrackedRun(
    RUN_KEY,
    "7",
    "run-1",
    "RUNNING",
    tags={
        "kubetune.phase": "training",
        "kubetune.total_steps": "200",
        **told(1, kubetune_step=50.0, loss=1.23456, kubetune_eta_seconds=200.0),
    },
    updated_ms=int(NOW.timestamp() * 1000),
)


def condition_of(status: Mapping[str, Any] | None, kind: str) -> tuple[str, str] | None:
    """Status and reason of a condition."""
    for item in (status or {}).get("conditions", ()):
        if item["type"] == kind:
            return item["status"], item["reason"]
    return None


def ready_reason(decision: Decision[Any]) -> tuple[str, str] | None:
    return condition_of(decision.status, ConditionType.READY)


def kstatus(status: Mapping[str, Any], generation: int) -> str:
    """The verdict of kstatus, by its rules for conditions of any kind."""
    found = {item["type"]: item["status"] for item in status.get("conditions", ())}
    if status.get("observedGeneration", generation) != generation:
        return "InProgress"
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if found.get("Ready", "True") != "True" else "Current"


def assert_fits(kind: str, status: Mapping[str, Any]) -> None:
    """Raises when the API server would refuse the status: wrong types, or too much of it."""
    model = BY_KIND[kind].status
    assert model is not None
    model.model_validate_json(json.dumps(status))


def names(decision: Decision[Any]) -> list[str]:
    """The actions by name, in order, without what is only written down before a start."""
    return [type(action).__name__ for action in decision.actions if not isinstance(action, Record)]
