"""When a compute target is Ready: one table of named cases."""

from dataclasses import dataclass
from typing import Any

import pytest
from builders import NOW, ago, condition, condition_of, kstatus, resource
from kubetune.api.conditions import Reason
from kubetune.decide.consent import Lacking
from kubetune.decide.target.states import ObservedTarget, TrackingProbe, decide
from kubetune.tracking.base import StorageCheck

TARGET: dict[str, Any] = {
    "kubernetes": {"image": "registry.example/runner:1"},
    "tracking": {"uri": "http://mlflow:5000"},
}
WRITABLE = TrackingProbe(version="3.17.2", storage=StorageCheck(True, "written and read"))


@dataclass
class Case:
    name: str
    probe: TrackingProbe | None
    ready: tuple[str, str]
    verdict: str
    requeue: float | None
    says: str = ""
    lacking: Lacking | None = None
    waited: float = 0
    readable: bool = True


CASES = [
    Case("all is well", WRITABLE, ("True", "Ready"), "Current", 300),
    Case(
        "only runs can tell whether storage is writable",
        TrackingProbe(version="3", storage=StorageCheck(None, "artifacts go to s3 directly")),
        ("True", "Ready"),
        "Current",
        300,
    ),
    Case("unreadable", None, ("False", "InvalidSpec"), "Failed", None, readable=False),
    Case(
        "no Secret",
        None,
        ("False", "SecretMissing"),
        "InProgress",
        2,
        "waiting for Secret mlflow",
        Lacking(Reason.SECRET_MISSING, "waiting for Secret mlflow in namespace team"),
    ),
    Case(
        "no Secret for long: read less often, at most every 25 s",
        None,
        ("False", "SecretMissing"),
        "InProgress",
        25,
        lacking=Lacking(Reason.SECRET_MISSING, "waiting for Secret mlflow in namespace team"),
        waited=3600,
    ),
    Case(
        "server away",
        TrackingProbe(error="connection refused"),
        ("False", "TrackingUnreachable"),
        "InProgress",
        10,
        "http://mlflow:5000: connection refused; check spec.tracking.uri",
    ),
    Case(
        "credentials refused",
        TrackingProbe(error="answered 401", reason=Reason.TRACKING_CREDENTIALS),
        ("False", "TrackingCredentialsRefused"),
        "InProgress",
        10,
        "spec.tracking.credentialsSecretRef",
    ),
    Case(
        "storage is read-only",
        TrackingProbe(version="3", storage=StorageCheck(False, "answered 500")),
        ("False", "StorageNotWritable"),
        "InProgress",
        10,
        "answered 500",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ready(case: Case) -> None:
    waiting = [condition("Ready", "False", lastTransitionTime=ago(case.waited))]
    target = resource(
        "ComputeTarget",
        "main",
        TARGET if case.readable else None,
        status={"conditions": waiting} if case.waited else {},
    )
    decision = decide(ObservedTarget(target, case.lacking, case.probe, 300), NOW)
    assert decision.status is not None
    assert condition_of(decision.status, "Ready") == case.ready
    assert kstatus(decision.status, 1) == case.verdict
    assert decision.requeue_after == case.requeue
    message = next(c["message"] for c in decision.status["conditions"] if c["type"] == "Ready")
    assert case.says in message


def test_last_known_version_stays_while_the_server_is_away() -> None:
    target = resource("ComputeTarget", "main", TARGET, status={"trackingVersion": "3.17.2"})
    away = ObservedTarget(target, None, TrackingProbe(error="no answer"), 300)
    assert (decide(away, NOW).status or {})["trackingVersion"] == "3.17.2"


def test_deleted_target_is_left_alone() -> None:
    target = resource("ComputeTarget", "main", TARGET, deleting=True)
    assert decide(ObservedTarget(target, None, WRITABLE, 300), NOW).status is None


@pytest.mark.parametrize(
    ("defaults", "status", "says"),
    [
        ((), "", ""),
        (("target",), "", ""),
        (("a", "b"), "", ""),
        (("target", "z"), "True", "target is used"),
        (("a", "target"), "False", "a is used"),
        (("a", "b", "c", "d", "e", "target"), "False", "a, b, c, d, e and 1 more"),
    ],
)
def test_each_of_several_defaults_says_which_one_counts(
    defaults: tuple[str, ...], status: str, says: str
):
    target = resource("ComputeTarget", "target", TARGET)
    before = ObservedTarget(target, None, WRITABLE, 300, defaults=("target", "zz"))
    told = (decide(before, NOW).status or {})["conditions"]
    target = resource("ComputeTarget", "target", TARGET, status={"conditions": told})
    decided = (
        decide(ObservedTarget(target, None, WRITABLE, 300, defaults=defaults), NOW).status or {}
    )
    found = [item for item in decided["conditions"] if item["type"] == "Default"]
    assert [item["status"] for item in found] == ([status] if status else [])
    assert all(says in item["message"] for item in found)
