"""Makes requests, jobs and runs for the tests of the CML backend's pure modules."""

from datetime import UTC, datetime, timedelta
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.training.settings import Resources
from kubetune.clients.cml_models import JobRun
from kubetune.targets.values import Owner, RunRequest

RUN_KEY = "abc123def4567890"
OWNER = Owner("kubetune.io/v1alpha1", "FineTuneJob", "team", "tickets", "uid-1")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    """A moment before NOW."""
    return NOW - timedelta(seconds=seconds)


def request(cml: JsonObject | None = None, **fields: Any) -> RunRequest:
    """A training request; ``cml`` adds to the target's spec."""
    target = ComputeTargetSpec.model_validate(
        {
            "cml": {
                "url": "https://ml.example.com",
                "project": "Sprachmodelle für Köln",
                "apiKeySecretRef": {"name": "cml-key"},
                "runtime": {"kernel": "Python 3.11"},
                **(cml or {}),
            },
            "tracking": {"uri": "http://mlflow:5000"},
        }
    )
    given: JsonObject = {
        "owner": OWNER,
        "run_key": RUN_KEY,
        "attempt": 2,
        "purpose": "train",
        "plan": {"version": 1, "kind": "train", "run": {"installId": "install-1"}},
        "target": target,
        "resources": Resources(cpu="1500m", memory="4Gi", gpu=0),
    }
    return RunRequest(**(given | fields))


def run(status: str | None, **fields: Any) -> JobRun:
    """A job run as the client reads it."""
    given: JsonObject = {"id": "run-1", "status": status, "created_at": ago(100)}
    return JobRun.model_validate(given | fields)
