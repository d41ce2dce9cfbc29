"""What a compute target says of the workspace's own tracking."""

from typing import Any

import pytest
from builders import NOW, condition_of, resource
from kubetune.api.conditions import Reason
from kubetune.decide.target.states import ObservedTarget, TrackingProbe, decide
from kubetune.targets.values import TargetProbe
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


ITS_PROJECT = TargetProbe(message="project p-1 answers", status={"workspace": {"projectId": "p-1"}})


def decided(probe: TrackingProbe | None, place: TargetProbe = ITS_PROJECT) -> Any:
    observed = ObservedTarget(
        resource("ComputeTarget", "main", TARGET), None, probe, probe_seconds=300, place_probe=place
    )
    return decide(observed, NOW).status or {}


def message_of(status: dict[str, Any], kind: str) -> str:
    return next(item["message"] for item in status["conditions"] if item["type"] == kind)


def test_what_a_run_would_not_find_is_waited_for() -> None:
    missing = TargetProbe(Reason.PROJECT_MISSING, "there is no project", {"workspace": {}})
    status = decided(None, missing)
    assert condition_of(status, "TargetAvailable") == ("False", "ProjectMissing")
    assert condition_of(status, "Ready") == ("False", "ProjectMissing")
    assert condition_of(status, "Reconciling") == ("True", "ProjectMissing")
    assert message_of(status, "Ready") == "there is no project"
    assert status["workspace"] == {}


def test_what_the_place_offers_is_shown() -> None:
    status = decided(ANSWERED)
    assert condition_of(status, "TargetAvailable") == ("True", "TargetAvailable")
    assert message_of(status, "TargetAvailable") == "project p-1 answers"
    assert status["workspace"] == {"projectId": "p-1"}


def test_experiments_that_answer_make_the_target_ready() -> None:
    status = decided(ANSWERED)
    assert condition_of(status, "Ready") == ("True", "Ready")
    assert condition_of(status, "StorageWritable") == ("Unknown", "StorageNotProxied")
    assert message_of(status, "TrackingAvailable") == (
        "Cloudera AI experiments answer at https://ml.example"
    )


@pytest.mark.parametrize(
    ("reason", "way_out"),
    [
        ("TrackingCredentialsRefused", "check spec.cml.apiKeySecretRef"),
        ("TrackingUnreachable", "check spec.cml"),
        ("AnswerRefused", "check spec.cml"),
        ("EgressRefused", "check spec.cml"),
    ],
)
def test_the_way_out_names_the_field(reason: str, way_out: str) -> None:
    status = decided(TrackingProbe(error="it said no", reason=Reason(reason)))
    assert condition_of(status, "TrackingAvailable") == ("False", reason)
    assert message_of(status, "Ready") == f"https://ml.example: it said no; {way_out}"
