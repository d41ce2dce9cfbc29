"""What a compute target says of the workspace's own tracking."""

from typing import Any

import pytest
from builders import NOW, condition_of, resource
from kubetune.decide.target.states import ObservedTarget, TrackingProbe, decide
from kubetune.decide.target.workspace import WorkspaceProbe
from kubetune.tracking.base import StorageCheck

TARGET: dict[str, Any] = {
    "cml": {
        "url": "https://ml.example",
        "project": "tuning",
        "apiKeySecretRef": {"name": "cml"},
        "runtime": {"kernel": "Python 3.11"},
    },
    "tracking": {"type": "cml"},
}
ANSWERED = TrackingProbe(
    version="Cloudera AI experiments", storage=StorageCheck(None, "only runs can tell")
)


def decided(probe: TrackingProbe) -> dict[str, Any]:
    workspace = WorkspaceProbe(project_id="p-1", runtime="python:1")
    observed = ObservedTarget(
        resource("ComputeTarget", "main", TARGET), "", probe, probe_seconds=300, workspace=workspace
    )
    return decide(observed, NOW).status or {}


def message_of(status: dict[str, Any], kind: str) -> str:
    return next(item["message"] for item in status["conditions"] if item["type"] == kind)


def test_experiments_that_answer_make_the_target_ready() -> None:
    status = decided(ANSWERED)
    assert condition_of(status, "Ready") == ("True", "Ready")
    assert condition_of(status, "StorageWritable") == ("Unknown", "StorageNotProxied")
    assert message_of(status, "TrackingAvailable") == (
        "Cloudera AI experiments answer at https://ml.example"
    )


@pytest.mark.parametrize(
    ("refused", "reason", "way_out"),
    [
        (True, "TrackingCredentialsRefused", "check spec.cml.apiKeySecretRef"),
        (False, "TrackingUnreachable", "check spec.cml"),
    ],
)
def test_the_way_out_names_the_field(refused: bool, reason: str, way_out: str) -> None:
    status = decided(TrackingProbe(error="it said no", credentials_refused=refused))
    assert condition_of(status, "TrackingAvailable") == ("False", reason)
    assert message_of(status, "Ready") == f"https://ml.example: it said no; {way_out}"
