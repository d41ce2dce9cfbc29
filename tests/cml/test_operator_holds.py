"""What runs in CML can't be reached without is held, and nothing is held for what has ended."""

import contextlib
import json
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.names import ABANDON_RUNS, IN_USE
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.lives import RUNNING, attempts, staying, succeeded
from tests.cml.space import FOR_TARGETS, SECRET, TARGET, CmlSpace

pytestmark = pytest.mark.cluster

POLICY = Path(__file__).parents[2] / "manifests" / "install" / "secrets-policy.yaml"
OPERATOR_HERE = "kubetune-operator"
HELD = (("ComputeTarget", TARGET), ("Secret", SECRET))
FORCE = {"metadata": {"annotations": {ABANDON_RUNS: "true"}}}


@pytest.fixture(scope="module", autouse=True)
def policy(cluster: LocalCluster) -> Iterator[None]:
    """What may be written of Secrets, for the operator's user in the local cluster.

    Under a name of its own: a test of the installation may have left the policy for its own user.
    """
    user = "system:serviceaccount:kubetune-system:kubetune"
    text = POLICY.read_text().replace(user, OPERATOR_HERE)
    text = text.replace("kubetune-secrets", "kubetune-secrets-here")
    cluster.kubectl("apply", "--server-side", "-f", "-", input=text)
    yield
    cluster.kubectl("delete", "-f", "-", input=text)


def finalizers(space: CmlSpace, kind: str, name: str) -> list[str]:
    body = space.find(kind, name)
    return (body["metadata"].get("finalizers") or []) if body else []


def evaluate(space: CmlSpace, name: str) -> None:
    space.scripts[name] = staying(RUNNING)
    spec = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "rows"},
        "promptRef": {"name": "ask"},
        "metrics": ["exactMatch"],
    }
    space.create("Evaluation", name, spec)
    space.until("Evaluation", name, lambda o: phase_of(o) == "Running")


def everything(space: CmlSpace) -> None:
    """Objects in all states: running, suspended, over, never submitted."""
    space.inputs()
    space.scripts["done"] = succeeded()
    for at, name in enumerate(("done", "running", "paused")):
        space.job(name, hyperparameters={"maxSteps": at + 1})
    space.phase("done", "Succeeded")
    space.phase("running", "Running")
    space.phase("paused", "Running")
    space.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    space.phase("paused", "Suspended")
    space.job("waiting", datasetRef={"name": "nobody-made-it"})
    space.waits("FineTuneJob", "waiting", "DatasetMissing")
    evaluate(space, "measured")


def delete_namespace(space: CmlSpace) -> None:
    space.request("DELETE", f"/api/v1/namespaces/{space.namespace}")


def namespace_is_gone(space: CmlSpace) -> bool:
    status, _ = space.try_request("GET", f"/api/v1/namespaces/{space.namespace}")
    return status == 404


@contextlib.contextmanager
def in_operators_namespace(space: CmlSpace, secret: str) -> Generator[str]:
    """A cluster-wide target probes with a Secret of the operator's namespace; its path."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubetune-system"}}
    space.try_request("POST", "/api/v1/namespaces", namespace)
    secrets = "/api/v1/namespaces/kubetune-system/secrets"
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret, "labels": FOR_TARGETS},
    }
    space.request("POST", secrets, body | {"stringData": {"apiKey": space.simulator.api_key}})
    try:
        yield f"{secrets}/{secret}"
    finally:
        space.request("DELETE", f"{secrets}/{secret}")


@pytest.mark.parametrize("seen", [True, False], ids=["operator runs", "operator is down"])
def test_a_namespace_goes_when_its_runs_are_stopped(
    cml: CmlSpace, cml_operator: Operator, seen: bool
) -> None:
    everything(cml)
    if seen:
        delete_namespace(cml)
    else:
        with cml_operator.crashed():
            delete_namespace(cml)
            for kind, name in (*HELD, ("Evaluation", "measured")):
                cml.until(kind, name, lambda o: "deletionTimestamp" in o["metadata"])
    eventually(lambda: namespace_is_gone(cml), 120)
    left = [job.name for job in cml.simulator.all_jobs() if job.deleted is None]
    active = [
        run.id
        for job in cml.simulator.all_jobs()
        for run in cml.simulator.runs(job.id)
        if run.active
    ]
    assert active == []
    # The entry of a job of which nothing runs goes if its target's Secret is still there.
    assert [name for name in left if "-done-" not in name and "-paused-" not in name] == []


def test_nothing_is_held_for_what_is_over_or_never_began(cml: CmlSpace) -> None:
    cml.inputs()
    cml.scripts["done"] = succeeded()
    cml.job("waiting", datasetRef={"name": "nobody-made-it"})
    cml.job("done")
    cml.phase("done", "Succeeded")
    cml.job("paused", hyperparameters={"maxSteps": 2})
    cml.phase("paused", "Running")
    cml.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    cml.phase("paused", "Suspended")
    cml.waits("FineTuneJob", "waiting", "DatasetMissing")
    for kind, name in HELD:
        # It is let go when the status has said that they are over.
        eventually(lambda kind=kind, name=name: IN_USE not in finalizers(cml, kind, name))
    # Their target and Secret are gone: they go all the same.
    cml.delete("ComputeTarget", TARGET)
    cml.delete("Secret", SECRET)
    eventually(lambda: not cml.find("ComputeTarget", TARGET) and not cml.find("Secret", SECRET))
    for name in ("done", "paused", "waiting"):
        cml.delete("FineTuneJob", name)
        eventually(lambda name=name: cml.find("FineTuneJob", name) is None)


def test_target_and_secrets_stay_until_their_runs_have_ended(cml: CmlSpace) -> None:
    token = {"MLFLOW_TRACKING_TOKEN": "for-nobody"}
    cml.create("Secret", "mlflow", stringData=token, labels={USE_LABEL: "tracking"})
    tracking = {"uri": cml.cluster.mlflow_url, "credentialsSecretRef": {"name": "mlflow"}}
    cml.patch("ComputeTarget", TARGET, {"spec": {"tracking": tracking}})
    cml.inputs()
    for at, name in enumerate(("first", "second")):
        cml.job(name, hyperparameters={"maxSteps": at + 1}, backoffLimit=1)
        cml.phase(name, "Running")
    held = [*HELD, ("Secret", "mlflow")]
    for kind, name in held:
        cml.delete(kind, name)
    body = cml.until("ComputeTarget", TARGET, lambda o: condition(o, "InUse")[0] == "True")
    _, reason, message = condition(body, "InUse")
    assert reason == "RunsLeft"
    assert f"FineTuneJob {cml.namespace}/first" in message
    assert f"{ABANDON_RUNS}=true" in message
    # Nothing else begins there.
    cml.job("late", hyperparameters={"maxSteps": 9}, computeTargetRef={"name": TARGET})
    assert "is being deleted" in cml.waits("FineTuneJob", "late", "TargetNotReady")
    # What has begun there goes on to its end, another attempt included.
    first, second = (cml.cml_runs(name)[0] for name in ("first", "second"))
    cml.simulator.set_status(first.id, "ENGINE_FAILED")
    eventually(lambda: len(cml.cml_runs("first")) == 2)
    cml.simulator.set_status(cml.cml_runs("first")[1].id, "ENGINE_SUCCEEDED")
    assert [result for result, _ in attempts(cml.phase("first", "Succeeded"))] == [
        "Failed",
        "Succeeded",
    ]
    for kind, name in held:
        assert IN_USE in finalizers(cml, kind, name)
    cml.simulator.set_status(second.id, "ENGINE_SUCCEEDED")
    cml.phase("second", "Succeeded")
    eventually(lambda: not any(cml.find(kind, name) for kind, name in held))


def test_force_lets_go_and_says_what_it_leaves(cml: CmlSpace, cml_operator: Operator) -> None:
    cml.inputs()
    cml.scripts["done"] = succeeded()
    for at, name in enumerate(("done", "running")):
        cml.job(name, hyperparameters={"maxSteps": at + 1})
    cml.phase("done", "Succeeded")
    cml.phase("running", "Running")
    evaluate(cml, "measured")
    cml.simulator.stop()
    offset = cml_operator.log_size()
    delete_namespace(cml)
    # Over, it doesn't wait long for a workspace that is away.
    eventually(lambda: cml.find("FineTuneJob", "done") is None, 90)
    stuck = (("FineTuneJob", "running"), ("Evaluation", "measured"))
    for kind, name in stuck:
        body = cml.until(
            kind, name, lambda o: condition(o, "TargetAvailable")[1] == "TargetUnreachable"
        )
        said = condition(body, "TargetAvailable")[2]
        assert cml.simulator.url in said
        assert (
            f"kubectl annotate {kind.lower()} {name} -n {cml.namespace} {ABANDON_RUNS}=true" in said
        )
    for kind, name in stuck:
        cml.patch(kind, name, FORCE)
    eventually(lambda: namespace_is_gone(cml))
    log = cml_operator.log_since(offset)
    for kind, name in stuck:
        assert f"{kind} {cml.namespace}/{name}: its runs with run key" in log
    cml.simulator.start()
    assert [run.active for run in cml.cml_runs("running")] == [True]


def test_a_target_is_let_go_by_force(cml: CmlSpace) -> None:
    cml.inputs()
    cml.job("running")
    cml.phase("running", "Running")
    cml.delete("ComputeTarget", TARGET)
    cml.delete("Secret", SECRET)
    cml.until("ComputeTarget", TARGET, lambda o: condition(o, "InUse")[0] == "True")
    cml.patch("ComputeTarget", TARGET, FORCE)
    eventually(lambda: not cml.find("ComputeTarget", TARGET) and not cml.find("Secret", SECRET))


def test_a_hold_that_a_replacement_dropped_is_taken_again(cml: CmlSpace) -> None:
    cml.inputs()
    cml.job("running")
    cml.phase("running", "Running")

    def replaced(kind: str, name: str) -> bool:
        body = cml.get(kind, name)
        del body["metadata"]["finalizers"]
        # The operator may have written in between.
        return cml.try_request("PUT", cml.path(kind, name), body)[0] < 300

    for kind, name in (("Secret", SECRET), ("ComputeTarget", TARGET)):
        eventually(partial(replaced, kind, name))
        cml.until(kind, name, lambda o: IN_USE in (o["metadata"].get("finalizers") or ()))
    assert [run.active for run in cml.cml_runs("running")] == [True]


def test_a_cluster_wide_target_is_held_with_secrets_of_its_users_namespaces(cml: CmlSpace) -> None:
    name = f"everyones-{cml.namespace}"
    with in_operators_namespace(cml, SECRET) as path:
        cml.create("ClusterComputeTarget", name, cml.cml_target())
        cml.inputs()
        cml.job("running", computeTargetRef={"kind": "ClusterComputeTarget", "name": name})
        cml.phase("running", "Running")
        assert IN_USE in finalizers(cml, "ClusterComputeTarget", name)
        assert IN_USE in finalizers(cml, "Secret", SECRET)
        assert "finalizers" not in cml.request("GET", path)["metadata"]
        cml.delete("ClusterComputeTarget", name)
        delete_namespace(cml)
        eventually(lambda: namespace_is_gone(cml), 120)
        eventually(lambda: cml.find("ClusterComputeTarget", name) is None)
        assert [run.active for run in cml.cml_runs("running")] == [False]


def test_what_a_cluster_wide_target_holds_is_let_go_of_who_went_unseen(
    cml: CmlSpace, cml_operator: Operator
) -> None:
    name, secret = f"everyones-{cml.namespace}", "everyones-key"
    with in_operators_namespace(cml, secret):
        own = cml.cml_target(apiKeySecretRef={"name": secret})
        cml.create("ClusterComputeTarget", name, own)
        key = {"apiKey": cml.simulator.api_key}
        cml.create("Secret", secret, stringData=key, labels=FOR_TARGETS)
        cml.inputs()
        cml.job("forced", computeTargetRef={"kind": "ClusterComputeTarget", "name": name})
        cml.phase("forced", "Running")
        assert IN_USE in finalizers(cml, "Secret", secret)
        with cml_operator.stopped():
            cml.delete("FineTuneJob", "forced")
            cml.patch("FineTuneJob", "forced", {"metadata": {"finalizers": None}})
            cml.delete("Secret", secret)
        eventually(lambda: cml.find("Secret", secret) is None)
        assert [run.active for run in cml.cml_runs("forced")] == [False]
        # The Secret is let go of first, so the target may still be held when that is gone.
        cml.until(
            "ClusterComputeTarget",
            name,
            lambda o: IN_USE not in (o["metadata"].get("finalizers") or ()),
        )
        cml.delete("ClusterComputeTarget", name)
        eventually(lambda: cml.find("ClusterComputeTarget", name) is None)


def test_a_target_in_the_cluster_is_not_held(cml: CmlSpace) -> None:
    cml.inputs()
    model = {"source": {"huggingFace": {"repo": "org/base"}}}
    cml.create("Model", "hub", model)
    cml.ready("Model", "hub")
    cml.create("ComputeTarget", "here", cml.target())
    there = {"computeTargetRef": {"name": "here"}, "modelRef": {"name": "hub"}}
    cml.job("running", **there)
    cml.phase("running", "Running")
    cml.delete("ComputeTarget", "here")
    eventually(lambda: cml.find("ComputeTarget", "here") is None)
    cml.end("running")
    cml.phase("running", "Succeeded")


def test_the_operator_may_write_nothing_of_a_secret_but_finalizers(
    cml_jobs: CmlSpace, cluster: LocalCluster
) -> None:
    def patch(change: dict[str, Any]) -> str:
        return cluster.kubectl(
            *("patch", "secret", SECRET, "-n", cml_jobs.namespace, "--type=merge"),
            *("-p", json.dumps(change), f"--as={OPERATOR_HERE}", "-o", "name"),
        )

    assert patch({"metadata": {"finalizers": ["example.com/kept"]}}) == f"secret/{SECRET}\n"
    assert patch({"metadata": {"finalizers": []}})
    for change in (
        {"stringData": {"apiKey": "another"}},
        {"data": None},
        {"immutable": True},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
    ):
        with pytest.raises(Exception, match="nothing of a Secret but its finalizers"):
            patch(change)


def test_the_operator_may_create_no_secret_but_that_of_its_keys(
    cml_jobs: CmlSpace, cluster: LocalCluster
) -> None:
    with pytest.raises(Exception, match="no Secret but the one with its own keys"):
        cluster.kubectl(
            *("create", "secret", "generic", "another", "-n", "kubetune-system"),
            f"--as={OPERATOR_HERE}",
        )
