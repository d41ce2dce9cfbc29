"""Where runs go is for the admin of the target to say, whatever a tenant's objects ask for."""

from collections.abc import Iterator

import pytest
from kubetune.api import JsonObject

from tests.cluster.namespace import Namespace
from tests.cluster.tenant import Tenant

pytestmark = pytest.mark.cluster

PRODUCT = "nvidia.com/gpu.product"
NODE = "kubetune.io/process-node"
ELSEWHERE: JsonObject = {"gpuLabel": {NODE: "false"}}
REFERENCES: JsonObject = {"datasetRef": {"name": "rows"}, "promptRef": {"name": "ask"}}


@pytest.fixture
def tenant(jobs: Namespace, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    tenant = Tenant(jobs, request.node.name.replace("_", "-"))
    yield tenant
    tenant.close()


def on(target: str) -> JsonObject:
    return {"computeTargetRef": {"kind": "ComputeTarget", "name": target}}


def job(tenant: Tenant, name: str, **spec: object) -> None:
    given: JsonObject = {"modelRef": {"name": "base"}, "hyperparameters": {"maxSteps": 1}}
    tenant.create("FineTuneJob", name, given | REFERENCES | spec)


def test_a_job_cannot_leave_the_nodes_of_its_target(jobs: Namespace, tenant: Tenant) -> None:
    job(tenant, "leaves", resources=ELSEWHERE)
    tenant.create("TuningProfile", "leaving", {"resources": ELSEWHERE})
    job(tenant, "leaves-by-profile", profileRef={"kind": "TuningProfile", "name": "leaving"})
    candidates = [{"name": "base", "modelRef": {"name": "base"}}]
    evaluation = {"candidates": candidates, "metrics": ["exactMatch"], "resources": ELSEWHERE}
    tenant.create("Evaluation", "leaves", evaluation | REFERENCES)
    for kind, name, field in (
        ("FineTuneJob", "leaves", "spec.resources.gpuLabel"),
        ("FineTuneJob", "leaves-by-profile", "TuningProfile leaving: spec.resources.gpuLabel"),
        ("Evaluation", "leaves", "spec.resources.gpuLabel"),
    ):
        message = jobs.stalls(kind, name, "InputsRefused")
        assert f"{field} {NODE}: false" in message
        assert f"ComputeTarget/scripted sets {NODE}: true" in message
        assert jobs.children("Job", name, kind) == []


def test_a_job_has_the_labels_that_its_target_lists(jobs: Namespace, tenant: Tenant) -> None:
    listed = [{"key": PRODUCT, "values": ["L4"]}]
    jobs.create("ComputeTarget", "listing", jobs.target(gpuLabels=listed))
    jobs.ready("ComputeTarget", "listing")
    job(tenant, "unlisted", resources={"gpuLabel": {PRODUCT: "H100"}}, **on("listing"))
    message = jobs.stalls("FineTuneJob", "unlisted", "InputsRefused")
    assert f"allows {PRODUCT}: L4 in its spec.kubernetes.gpuLabels" in message
    job(tenant, "listed", resources={"gpuLabel": {PRODUCT: "L4"}}, **on("listing"))
    jobs.until("FineTuneJob", "listed", lambda _: jobs.runs("listed"))
    (run,) = jobs.runs("listed")
    wanted = {NODE: "true", PRODUCT: "L4"}
    assert run["spec"]["template"]["spec"]["nodeSelector"] == wanted
    # The admin lists another one, and it goes on by itself.
    more = [*listed, {"key": PRODUCT.replace("product", "memory")}]
    more[0] = {"key": PRODUCT}
    jobs.patch("ComputeTarget", "listing", {"spec": {"kubernetes": {"gpuLabels": more}}})
    jobs.until("FineTuneJob", "unlisted", lambda _: jobs.runs("unlisted"))
