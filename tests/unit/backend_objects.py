"""Makes requests, Jobs and pods for the tests of the Kubernetes backend."""

from typing import Any

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.training.settings import Resources
from kubetune.targets.values import Owner, RunRequest

RUN_KEY = "abc123def4567890"
OWNER = Owner("kubetune.io/v1alpha1", "FineTuneJob", "team", "tickets", "uid-1")
NOW = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:09:05Z"


def request(
    kubernetes: JsonObject | None = None, tracking: JsonObject | None = None, **fields: Any
) -> RunRequest:
    """A training request; ``kubernetes`` and ``tracking`` add to the target's spec."""
    target = ComputeTargetSpec.model_validate(
        {
            "kubernetes": {"image": "registry.example/runner:1", **(kubernetes or {})},
            "tracking": {"uri": "http://mlflow:5000", **(tracking or {})},
        }
    )
    given: JsonObject = {
        "owner": OWNER,
        "run_key": RUN_KEY,
        "attempt": 2,
        "purpose": "train",
        "plan": {"version": 1, "kind": "train"},
        "target": target,
        "resources": Resources(cpu="1500m", memory="4Gi", gpu=0),
    }
    return RunRequest(**(given | fields))


def condition(kind: str, status: str = "True", **fields: str) -> JsonObject:
    return {"type": kind, "status": status, "lastTransitionTime": LATER, **fields}


def job(*conditions: JsonObject, suspend: bool = False, deleted: bool = False) -> JsonObject:
    return {
        "metadata": {
            "name": "tickets-1",
            "namespace": "team",
            "uid": "job-uid",
            "labels": {names.ATTEMPT: "1"},
            **({"deletionTimestamp": NOW} if deleted else {}),
        },
        "spec": {"suspend": suspend},
        "status": {"startTime": NOW, "conditions": list(conditions)},
    }


def pod(
    phase: str = "Pending",
    *conditions: JsonObject,
    state: JsonObject | None = None,
    node: str | None = "node-1",
    created: str = NOW,
    **status: Any,
) -> JsonObject:
    statuses = [{"name": "runner", "image": "registry.example/runner:1", "state": state}]
    return {
        "metadata": {"name": "tickets-1-xyz", "creationTimestamp": created},
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            **({"containerStatuses": statuses} if state is not None else {}),
            **status,
        },
    }


def terminated(code: int, reason: str = "Error", message: str = "") -> JsonObject:
    ended = {"exitCode": code, "reason": reason, "startedAt": NOW, "finishedAt": LATER}
    return {"terminated": {**ended, **({"message": message} if message else {})}}


def waiting(reason: str, message: str = "") -> JsonObject:
    return {"waiting": {"reason": reason, "message": message}}
