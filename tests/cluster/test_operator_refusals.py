"""What the cluster refuses is named in the status, and goes on by itself once it is allowed."""

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import ROWS, Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"


@contextlib.contextmanager
def forbidden(
    space: Namespace, groups: list[str], resources: list[str], operations: list[str], probe: Any
) -> Generator[None]:
    """A policy that denies these operations in the namespace; in force once ``probe`` says so."""
    name = f"{space.namespace}-no-{resources[0].replace('/', '-')}"
    rule = {
        "apiGroups": groups,
        "apiVersions": ["*"],
        "operations": operations,
        "resources": resources,
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": space.namespace}}
    policy: JsonObject = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here},
            "validations": [{"expression": "false", "message": "closed for the night"}],
        },
    }
    binding: JsonObject = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    space.request("POST", POLICIES, policy)
    space.request("POST", BINDINGS, binding)
    try:
        eventually(probe)
        yield
    finally:
        space.request("DELETE", f"{BINDINGS}/{name}")
        space.request("DELETE", f"{POLICIES}/{name}")


def denies(space: Namespace, kind: str, spec: JsonObject, **fields: Any) -> Any:
    """Whether making an object is refused now; nothing is made."""

    def probe() -> bool:
        api_version = fields.get("apiVersion", "kubetune.io/v1alpha1")
        body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "probe"}}
        path = space.path(kind) + "?dryRun=All"
        return space.try_request("POST", path, body | {"spec": spec})[0] == 422

    return probe


def no_jobs(space: Namespace) -> Any:
    container = {"name": "c", "image": "i"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {"template": template}
    probe = denies(space, "Job", spec, apiVersion="batch/v1")
    return forbidden(space, ["batch"], ["jobs"], ["CREATE"], probe)


def no_models(space: Namespace) -> Any:
    probe = denies(space, "Model", {"source": {"huggingFace": {"repo": "a/b"}}})
    return forbidden(space, ["kubetune.io"], ["models"], ["CREATE"], probe)


def test_a_job_that_a_policy_refuses_goes_on_when_it_relents(jobs: Namespace):
    with no_jobs(jobs):
        jobs.job("at-night")
        message = jobs.waits("FineTuneJob", "at-night", "TargetRefused")
        assert "closed for the night" in message
        body = jobs.get("FineTuneJob", "at-night")
        assert condition(body, "Stalled")[0] == ""
        assert condition(body, "Reconciling")[0] == "True"
    jobs.phase("at-night", "Running")


def test_an_inspection_that_a_policy_refuses(jobs: Namespace):
    with no_jobs(jobs):
        rows = [*ROWS, {"prompt": "one", "completion": "more"}]
        jobs.create("Dataset", "at-night", {"source": {"inline": {"rows": rows}}})
        assert "closed for the night" in jobs.waits("Dataset", "at-night", "TargetRefused")
    jobs.ready("Dataset", "at-night")


def test_an_output_that_a_policy_refuses_keeps_the_job_from_completing(jobs: Namespace):
    with no_models(jobs):
        jobs.job("no-output", output={"modelName": "at-night"})
        jobs.end("no-output")
        message = jobs.waits("FineTuneJob", "no-output", "TargetRefused")
        assert "Model at-night" in message
        body = jobs.get("FineTuneJob", "no-output")
        assert phase_of(body) == "Registering"
        assert condition(body, "Complete")[0] == ""
    jobs.phase("no-output", "Succeeded")
    assert jobs.find("Model", "at-night") is not None


def test_a_change_of_the_object_that_a_policy_refuses(jobs: Namespace):
    jobs.job("untouched", suspend=True)
    jobs.phase("untouched", "Suspended")

    def probe() -> bool:
        path = jobs.path("FineTuneJob", "untouched") + "?dryRun=All"
        return jobs.try_request("PATCH", path, {"metadata": {"labels": {"a": "b"}}})[0] == 422

    with forbidden(jobs, ["kubetune.io"], ["finetunejobs"], ["UPDATE"], probe):
        jobs.job("sealed")
        message = jobs.waits("FineTuneJob", "sealed", "TargetRefused")
        assert "FineTuneJob sealed" in message
        assert jobs.runs("sealed") == []
    jobs.phase("sealed", "Running")


def test_a_status_that_a_policy_refuses(cluster: LocalCluster, jobs: Namespace, operator: Operator):
    jobs.job("mute-probe", suspend=True)
    jobs.phase("mute-probe", "Suspended")

    def probe() -> bool:
        path = jobs.path("FineTuneJob", "mute-probe") + "/status?dryRun=All"
        patch = {"status": {"observedGeneration": 7}}
        return jobs.try_request("PATCH", path, patch)[0] == 422

    offset = operator.log_size()
    with forbidden(jobs, ["kubetune.io"], ["finetunejobs/status"], ["UPDATE"], probe):
        jobs.job("mute")
        eventually(lambda: "closed for the night" in operator.log_since(offset))
    jobs.phase("mute", "Running")
    assert len(jobs.runs("mute")) == 1


def test_a_quota_on_pods_is_named(space: Namespace):
    space.inputs()
    quotas = f"/api/v1/namespaces/{space.namespace}/resourcequotas"
    quota = {"kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    space.request("POST", quotas, {"apiVersion": "v1", **quota})
    space.job("crowded")
    message = space.waits("FineTuneJob", "crowded", "QuotaExceeded")
    assert "exceeded quota: none" in message
    space.create("Dataset", "crowded", {"source": {"inline": {"rows": ROWS[:3]}}})
    assert "exceeded quota" in space.waits("Dataset", "crowded", "QuotaExceeded")
    space.request("DELETE", f"{quotas}/none")
    space.phase("crowded", "Running", seconds=120)


def test_a_service_account_that_is_missing_is_named(jobs: Namespace):
    jobs.create("ComputeTarget", "nobody", jobs.target(serviceAccountName="nobody"))
    named = {"kind": "ComputeTarget", "name": "nobody"}
    jobs.job("nobody", computeTargetRef=named)
    message = jobs.waits("FineTuneJob", "nobody", "ServiceAccountMissing")
    assert "ServiceAccount nobody" in message
