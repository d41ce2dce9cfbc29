"""Objects that name no target: which default is theirs, and what they do when it goes."""

from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome

from tests.cluster.namespace import DEFAULT_TARGET, ROWS, Namespace, condition, phase_of
from tests.cluster.subjects import MEASURED, Subjects
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

NOWHERE = {"no": "node"}
LOST = Outcome(status="failed", reason="OutOfMemory", message="killed", retryable=True)


def default_of(space: Namespace, name: str, status: str) -> str:
    """The message of a target's condition Default once it has a status."""
    wanted = (status, "SeveralDefaults")
    body = space.until("ComputeTarget", name, lambda o: condition(o, "Default")[:2] == wanted)
    return condition(body, "Default")[2]


def inspected(space: Namespace, name: str) -> None:
    """A Dataset that names no target."""
    space.create("Dataset", name, {"source": {"inline": {"rows": ROWS}}})


def waits_on(space: Namespace, name: str, target: str) -> None:
    """Wait until the inspection of a Dataset waits on a target."""

    def holds(body: dict[str, Any]) -> bool:
        state = (body.get("status") or {}).get("inspection") or {}
        return state.get("external", {}).get("target") == f"ComputeTarget/{target}"

    space.until("Dataset", name, holds)
    space.waits("Dataset", name, "Unschedulable")


def test_several_defaults_are_told_and_ordered_by_name(space: Namespace):
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


def test_an_inspection_goes_on_when_its_default_is_removed(space: Namespace):
    space.create("ComputeTarget", "a-useless", space.target(nodeSelector=NOWHERE), **DEFAULT_TARGET)
    space.ready("ComputeTarget", "a-useless")
    inspected(space, "rows")
    waits_on(space, "rows", "a-useless")
    space.delete("ComputeTarget", "a-useless")
    status = space.ready("Dataset", "rows")
    assert status["rows"]["train"] + status["rows"]["evaluation"] == len(ROWS)


def test_an_inspection_goes_on_when_another_target_becomes_the_default(space: Namespace):
    space.create("ComputeTarget", "a-useless", space.target(nodeSelector=NOWHERE), **DEFAULT_TARGET)
    space.ready("ComputeTarget", "a-useless")
    inspected(space, "rows")
    waits_on(space, "rows", "a-useless")
    annotation = {"kubetune.io/is-default-target": "false"}
    space.patch("ComputeTarget", "a-useless", {"metadata": {"annotations": annotation}})
    space.ready("Dataset", "rows")


def test_what_was_found_outlives_the_default_it_was_found_on(space: Namespace):
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


def test_a_job_goes_on_when_its_default_is_removed(space: Namespace):
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


def test_who_names_a_target_waits_for_it(space: Namespace):
    space.create("ComputeTarget", "named", space.target(nodeSelector=NOWHERE))
    space.ready("ComputeTarget", "named")
    reference = {"computeTargetRef": {"kind": "ComputeTarget", "name": "named"}}
    space.create("Dataset", "rows", {"source": {"inline": {"rows": ROWS}}, **reference})
    waits_on(space, "rows", "named")
    space.delete("ComputeTarget", "named")
    assert "named" in space.waits("Dataset", "rows", "TargetMissing")


def make_default(space: Namespace, name: str, *others: str) -> None:
    """Move the annotation to a target from others."""
    for target, value in ((name, "true"), *((other, None) for other in others)):
        annotation = {"kubetune.io/is-default-target": value}
        space.patch("ComputeTarget", target, {"metadata": {"annotations": annotation}})


def started_on(body: dict[str, Any]) -> str:
    """The target of an object's runs."""
    return body["status"]["external"]["target"].removeprefix("ComputeTarget/")


@pytest.fixture
def two(space: Namespace) -> Subjects:
    """Two targets with scripted runs, ``a-first`` the default; objects that name none."""
    space.inputs()
    for name in ("a-first", "b-second"):
        space.scripted_target(name)
    make_default(space, "a-first", "scripted")
    return Subjects(space, {})


def test_a_job_that_runs_stays_when_the_default_moves(space: Namespace, two: Subjects):
    two.make("FineTuneJob", "stays", backoffLimit=1)
    pod = two.running("FineTuneJob", "stays")
    make_default(space, "b-second", "a-first")
    two.make("FineTuneJob", "goes")
    two.running("FineTuneJob", "goes")
    assert started_on(space.get("FineTuneJob", "goes")) == "b-second"
    assert [item["metadata"]["uid"] for item in two.pods("FineTuneJob", "stays")] == [
        pod["metadata"]["uid"]
    ]
    # What was begun on a default that is still there goes on there.
    space.end("stays", code=1, outcome=LOST)
    two.end("FineTuneJob", two.running("FineTuneJob", "stays", attempt=2))
    assert started_on(two.done("FineTuneJob", "stays")) == "a-first"


def test_candidates_are_measured_where_the_first_was(space: Namespace, two: Subjects):
    pair = [{"name": name, "modelRef": {"name": "base"}} for name in ("one", "two")]
    # The same model twice would be measured once.
    space.create("Model", "other", space.get("Model", "base")["spec"] | {"trustRemoteCode": True})
    two.end("Model", two.running("Model", "other"))
    space.ready("Model", "other")
    pair[1]["modelRef"] = {"name": "other"}
    two.make("Evaluation", "compare", candidates=pair, parallelism=1)
    first = two.running("Evaluation", "compare")
    make_default(space, "b-second", "a-first")
    two.end("Evaluation", first)

    def second() -> dict[str, Any] | None:
        alive = two.pods("Evaluation", "compare")
        assert len(alive) < 2
        return next((pod for pod in alive if two.run_key(pod) != two.run_key(first)), None)

    two.end("Evaluation", eventually(second) or {})
    assert started_on(two.done("Evaluation", "compare")) == "a-first"


def test_an_evaluation_goes_on_when_its_default_is_removed(space: Namespace, two: Subjects):
    """What runs there ends there; what begins afterwards is elsewhere."""
    two.make("Evaluation", "bereft", backoffLimit=1)
    pod = two.running("Evaluation", "bereft")
    make_default(space, "b-second")
    space.delete("ComputeTarget", "a-first")
    two.make("Evaluation", "late")
    two.running("Evaluation", "late")
    assert started_on(space.get("Evaluation", "late")) == "b-second"
    assert [item["metadata"]["uid"] for item in two.pods("Evaluation", "bereft")] == [
        pod["metadata"]["uid"]
    ]
    space.end_run(two.run_key(pod), code=1, outcome=LOST)
    two.end("Evaluation", two.running("Evaluation", "bereft", attempt=2))
    body = two.done("Evaluation", "bereft")
    assert started_on(body) == "b-second"
    (candidate,) = body["status"]["candidates"]
    assert candidate["rows"] == MEASURED.rows


def test_a_suspended_evaluation_goes_on_with_the_present_default(space: Namespace, two: Subjects):
    two.make("Evaluation", "paused")
    two.running("Evaluation", "paused")
    space.patch("Evaluation", "paused", {"spec": {"suspend": True}})
    space.until("Evaluation", "paused", lambda o: phase_of(o) == "Suspended")
    make_default(space, "b-second")
    space.delete("ComputeTarget", "a-first")
    space.patch("Evaluation", "paused", {"spec": {"suspend": False}})
    two.end("Evaluation", two.running("Evaluation", "paused", attempt=2))
    assert started_on(two.done("Evaluation", "paused")) == "b-second"


@pytest.mark.parametrize("kind", ["FineTuneJob", "Evaluation"])
def test_what_was_refused_on_one_default_begins_on_the_next(
    space: Namespace, two: Subjects, kind: str
):
    """A quota lets no Job be made; what was never started isn't tied to any target."""
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    path = f"/api/v1/namespaces/{space.namespace}/resourcequotas"
    space.request("POST", path, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    two.make(kind, "refused")
    space.waits(kind, "refused", "QuotaExceeded")
    make_default(space, "b-second", "a-first")
    # What is tried again meanwhile is refused as well.
    space.until(kind, "refused", lambda o: started_on(o) == "b-second")
    space.request("DELETE", f"{path}/none")
    two.end(kind, two.running(kind, "refused"))
    assert started_on(two.done(kind, "refused")) == "b-second"
