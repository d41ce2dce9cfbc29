"""Objects that name no target: which default is theirs, and what they do when it goes."""

from typing import Any

import pytest
from kubetune.api.outcome import Outcome

from tests.cluster.workspace import DEFAULT_TARGET, ROWS, Workspace, condition

pytestmark = pytest.mark.cluster

NOWHERE = {"no": "node"}
LOST = Outcome(status="failed", reason="OutOfMemory", message="killed", retryable=True)


def default_of(space: Workspace, name: str, status: str) -> str:
    """The message of a target's condition Default once it has a status."""
    wanted = (status, "SeveralDefaults")
    body = space.until("ComputeTarget", name, lambda o: condition(o, "Default")[:2] == wanted)
    return condition(body, "Default")[2]


def inspected(space: Workspace, name: str) -> None:
    """A Dataset that names no target."""
    space.create("Dataset", name, {"source": {"inline": {"rows": ROWS}}})


def waits_on(space: Workspace, name: str, target: str) -> None:
    """Wait until the inspection of a Dataset waits on a target."""

    def holds(body: dict[str, Any]) -> bool:
        state = (body.get("status") or {}).get("inspection") or {}
        return state.get("external", {}).get("target") == f"ComputeTarget/{target}"

    space.until("Dataset", name, holds)
    space.waits("Dataset", name, "Unschedulable")


def test_several_defaults_are_told_and_ordered_by_name(space: Workspace):
    space.ready("ComputeTarget", "scripted")
    assert condition(space.get("ComputeTarget", "scripted"), "Default") == ("", "", "")
    space.create("ComputeTarget", "another", space.target(), **DEFAULT_TARGET)
    assert "another is used" in default_of(space, "another", "True")
    assert "another, scripted" in default_of(space, "scripted", "False")
    space.inputs()
    space.job("first")
    body = space.phase("first", "Running")
    assert body["status"]["external"]["target"] == "ComputeTarget/another"
    annotation = {"kubetune.io/is-default-target": None}
    space.patch("ComputeTarget", "another", {"metadata": {"annotations": annotation}})
    for name in ("another", "scripted"):
        space.until("ComputeTarget", name, lambda o: condition(o, "Default") == ("", "", ""))
    space.job("second")
    body = space.phase("second", "Running")
    assert body["status"]["external"]["target"] == "ComputeTarget/scripted"


def test_an_inspection_goes_on_when_its_default_is_removed(space: Workspace):
    space.create("ComputeTarget", "a-useless", space.target(nodeSelector=NOWHERE), **DEFAULT_TARGET)
    space.ready("ComputeTarget", "a-useless")
    inspected(space, "rows")
    waits_on(space, "rows", "a-useless")
    space.delete("ComputeTarget", "a-useless")
    status = space.ready("Dataset", "rows")
    assert status["rows"]["train"] + status["rows"]["evaluation"] == len(ROWS)


def test_an_inspection_goes_on_when_another_target_becomes_the_default(space: Workspace):
    space.create("ComputeTarget", "a-useless", space.target(nodeSelector=NOWHERE), **DEFAULT_TARGET)
    space.ready("ComputeTarget", "a-useless")
    inspected(space, "rows")
    waits_on(space, "rows", "a-useless")
    annotation = {"kubetune.io/is-default-target": "false"}
    space.patch("ComputeTarget", "a-useless", {"metadata": {"annotations": annotation}})
    space.ready("Dataset", "rows")


def test_what_was_found_outlives_the_default_it_was_found_on(space: Workspace):
    """And a change of the spec is read on the present one."""
    space.ready("ComputeTarget", "scripted")
    inspected(space, "rows")
    before = space.ready("Dataset", "rows")
    space.create("ComputeTarget", "the-other", space.target(), **DEFAULT_TARGET)
    space.ready("ComputeTarget", "the-other")
    space.delete("ComputeTarget", "scripted")
    space.patch("Dataset", "rows", {"metadata": {"labels": {"touched": "yes"}}})
    inspected(space, "later")
    space.ready("Dataset", "later")
    assert space.get("Dataset", "rows")["status"]["inspection"] == before["inspection"]


def test_a_job_goes_on_when_its_default_is_removed(space: Workspace):
    space.inputs()
    space.create("ComputeTarget", "a-first", space.target(), **DEFAULT_TARGET)
    space.ready("ComputeTarget", "a-first")
    space.job("moved", backoffLimit=1)
    body = space.phase("moved", "Running")
    assert body["status"]["external"]["target"] == "ComputeTarget/a-first"
    space.delete("ComputeTarget", "a-first")
    # What runs stays where it is.
    space.job("bystander")
    space.phase("bystander", "Running")
    assert len(space.runs("moved")) == 1
    space.end("moved", code=1, outcome=LOST)
    space.end("moved", attempt=2)
    body = space.phase("moved", "Succeeded")
    assert body["status"]["external"]["target"] == "ComputeTarget/scripted"


def test_who_names_a_target_waits_for_it(space: Workspace):
    space.create("ComputeTarget", "named", space.target(nodeSelector=NOWHERE))
    space.ready("ComputeTarget", "named")
    reference = {"computeTargetRef": {"kind": "ComputeTarget", "name": "named"}}
    space.create("Dataset", "rows", {"source": {"inline": {"rows": ROWS}}, **reference})
    waits_on(space, "rows", "named")
    space.delete("ComputeTarget", "named")
    assert "named" in space.waits("Dataset", "rows", "TargetMissing")
