"""What a target's podTemplate does to the pods of a real operator's runs."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.pod_template import PodTemplate
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.schema.structural import structural_schema
from kubetune.api.training.settings import Resources
from kubetune.targets.kubernetes.manifests import build_job
from kubetune.targets.values import Owner, RunRequest
from pod_template_cases import ACCEPTED_TEMPLATES
from pydantic import ValidationError
from spec_strategies import values

from tests.cluster.namespace import Namespace, condition
from tests.unit.pod_template_settings import FULL

pytestmark = pytest.mark.cluster

NODE: JsonObject = {"key": "kubetune.io/process-node", "operator": "In", "values": ["true"]}
OF_OURS: JsonObject = {"matchLabels": {"app.kubernetes.io/managed-by": "kubetune"}}
FAR: JsonObject = {
    "topologyKey": "kubernetes.io/hostname",
    "labelSelector": OF_OURS,
    "matchLabelKeys": ["kubetune.io/run-key"],
    "namespaceSelector": {},
}
PLACED: JsonObject = {
    "labels": {"team": "support", "kueue.x-k8s.io/priority-class": "low"},
    "annotations": {"k8s.v1.cni.cncf.io/networks": '[{"name": "rdma"}]'},
    "schedulerName": "default-scheduler",
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [NODE]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 5, "podAffinityTerm": FAR}
            ]
        },
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": OF_OURS,
            "matchLabelKeys": ["kubetune.io/run-key"],
        }
    ],
}
SAY = "import os; assert os.environ['WORD'] == 'ready'; print(os.environ['HF_HOME'])"
FETCH: JsonObject = {
    "name": "fetch",
    "image": "kubetune.local/runner:test",
    "command": ["python", "-c"],
    "args": [SAY],
    "env": [{"name": "WORD", "value": "ready"}],
    "resources": {"cpu": "50m", "memory": "64Mi"},
}
FAILING: JsonObject = FETCH | {"args": ["raise SystemExit('no weights there')"]}
SCARCE: JsonObject = {"extendedResources": {"example.com/rdma": "1"}}


def target(jobs: Namespace, name: str, template: JsonObject) -> JsonObject:
    """Make a target with a podTemplate; how a job names it."""
    jobs.create("ComputeTarget", name, jobs.target(podTemplate=template))
    jobs.ready("ComputeTarget", name)
    return {"computeTargetRef": {"kind": "ComputeTarget", "name": name}}


def test_a_run_has_what_the_template_says_and_ends(jobs: Namespace) -> None:
    given = jobs.target(podTemplate=PLACED | {"initContainers": [FETCH]}, ephemeralStorage="1Mi")
    jobs.create("ComputeTarget", "placing", given)
    jobs.job("placed", computeTargetRef={"kind": "ComputeTarget", "name": "placing"})
    jobs.end("placed")
    jobs.phase("placed", "Succeeded")
    (pod,) = jobs.children("Pod", "placed")
    metadata, spec = pod["metadata"], pod["spec"]
    assert metadata["labels"].items() >= PLACED["labels"].items()
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "kubetune"
    assert metadata["annotations"].items() >= PLACED["annotations"].items()
    affinity = spec["affinity"]
    assert affinity["nodeAffinity"] == PLACED["affinity"]["nodeAffinity"]
    (preferred,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert (preferred["weight"], preferred["podAffinityTerm"]["topologyKey"]) == (
        5,
        FAR["topologyKey"],
    )
    (constraint,) = spec["topologySpreadConstraints"]
    assert constraint["matchLabelKeys"] == ["kubetune.io/run-key"]
    assert "hostNetwork" not in spec
    assert spec["containers"][0]["resources"]["requests"]["ephemeral-storage"] == "1Mi"
    (shared,) = [each for each in spec["volumes"] if each["name"] == "shared-memory"]
    # Of the target's 64Mi.
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Mi"}
    (status,) = pod["status"]["initContainerStatuses"]
    assert (status["name"], status["state"]["terminated"]["exitCode"]) == ("fetch", 0)


def test_a_failed_init_container_is_told(jobs: Namespace) -> None:
    named = target(jobs, "failing", {"initContainers": [FETCH, FAILING | {"name": "check"}]})
    jobs.job("unfetched", backoffLimit=0, **named)
    body = jobs.phase("unfetched", "Failed")
    (attempt,) = body["status"]["attempts"]
    assert attempt["reason"] == "InitContainerFailed"
    assert "init container check ended with exit code 1: no weights there" in attempt["message"]


def test_a_change_is_for_later_attempts(jobs: Namespace) -> None:
    jobs.job("scarce", backoffLimit=1, **target(jobs, "scarce", SCARCE))
    message = jobs.waits("FineTuneJob", "scarce", "Unschedulable")
    assert "Insufficient example.com/rdma" in message
    (first,) = jobs.runs("scarce")
    jobs.patch(
        "ComputeTarget",
        "scarce",
        {"spec": {"kubernetes": {"podTemplate": {"extendedResources": None, **PLACED}}}},
    )
    jobs.ready("ComputeTarget", "scarce")
    run_key = jobs.run_key("scarce")
    (still,) = jobs.runs("scarce")
    assert still["metadata"]["uid"] == first["metadata"]["uid"]
    assert still["spec"]["template"] == first["spec"]["template"]
    jobs.delete("Job", first["metadata"]["name"])
    jobs.end("scarce", attempt=2)
    body = jobs.phase("scarce", "Succeeded")
    assert jobs.run_key("scarce") == run_key
    assert [item["result"] for item in body["status"]["attempts"]] == ["Failed", "Succeeded"]
    (second,) = jobs.runs("scarce")
    assert second["spec"]["template"]["metadata"]["labels"]["team"] == "support"


def test_inspections_have_it_too_but_no_devices(jobs: Namespace) -> None:
    named = target(jobs, "inspecting", PLACED | SCARCE | {"initContainers": [FETCH]})
    rows = [{"prompt": f"only here {at}", "completion": "yes"} for at in range(9)]
    jobs.create("Dataset", "inspected", {"source": {"inline": {"rows": rows}}, **named})
    found: list[JsonObject] = []

    def has_a_run(_: JsonObject) -> bool:
        found[:] = [job["spec"]["template"] for job in jobs.runs("inspected", "Dataset")]
        return bool(found)

    jobs.until("Dataset", "inspected", has_a_run)
    jobs.ready("Dataset", "inspected")
    for template in found:
        assert template["metadata"]["labels"]["team"] == "support"
        assert [each["name"] for each in template["spec"]["initContainers"]] == ["fetch"]
        assert (
            SCARCE["extendedResources"]
            .keys()
            .isdisjoint(template["spec"]["containers"][0]["resources"]["limits"])
        )


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"securityContext": {"runAsUser": 0}}, "securityContext"),
        ({"serviceAccountName": "admin"}, "serviceAccountName"),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "volumes"),
        ({"restartPolicy": "Always"}, "restartPolicy"),
        (
            {"initContainers": [FETCH | {"securityContext": {"privileged": True}}]},
            "initContainers[0].securityContext",
        ),
        (
            {"initContainers": [FETCH | {"volumeMounts": [{"name": "plan", "mountPath": "/p"}]}]},
            "initContainers[0].volumeMounts",
        ),
    ],
    ids=str,
)
def test_more_rights_cannot_be_asked_for(jobs: Namespace, template: JsonObject, field: str) -> None:
    """As kubectl sends it, it is refused; a client that isn't strict gets an object without it."""
    body = {
        "apiVersion": "kubetune.io/v1alpha1",
        "kind": "ComputeTarget",
        "metadata": {"name": "greedy"},
        "spec": jobs.target(podTemplate=template),
    }
    path = f"{jobs.path('ComputeTarget')}?dryRun=All&fieldValidation="
    status, answer = jobs.try_request("POST", f"{path}Strict", body)
    assert status == 400
    assert f'unknown field "spec.kubernetes.podTemplate.{field}"' in answer["message"]
    status, answer = jobs.try_request("POST", f"{path}Ignore", body)
    assert status == 201
    kept = answer["spec"]["kubernetes"]["podTemplate"]
    assert field.rpartition(".")[2] not in json.dumps(kept)


def test_a_scheduler_that_is_not_there_is_named(jobs: Namespace) -> None:
    jobs.job("gangs", **target(jobs, "gangs", {"schedulerName": "gangs"}))

    def names_it(body: JsonObject) -> bool:
        return "scheduler gangs" in condition(body, "Ready")[2]

    body = jobs.until("FineTuneJob", "gangs", names_it)
    assert condition(body, "Ready")[1] == "PodPending"


def refusal(jobs: Namespace, template: JsonObject) -> str:
    """Why the API server refuses a pod with the template in a namespace of restricted pods."""
    target = ComputeTargetSpec.model_validate(jobs.target(podTemplate=template))
    owner = Owner("v1", "ConfigMap", jobs.namespace, "any", "uid")
    resources = Resources(cpu="1", memory="1Gi", gpu=0)
    request = RunRequest(owner, "abc123def4567890", 1, "train", {}, target, resources)
    made = build_job(request)["spec"]["template"]
    made["metadata"]["name"] = "any"
    body = {"apiVersion": "v1", "kind": "Pod", **made}
    path = f"{jobs.path('Pod')}?dryRun=All&fieldValidation=Strict"
    status, answer = jobs.try_request("POST", path, body)
    return "" if status == 201 else f"{status}: {answer['message']}"


@pytest.mark.parametrize("template", [*ACCEPTED_TEMPLATES, FULL], ids=lambda item: str(item)[:60])
def test_what_a_target_may_say_pods_may_have(jobs: Namespace, template: JsonObject) -> None:
    """Or jobs would fail late, by what their target was let say."""
    assert refusal(jobs, template) == ""


def test_what_random_targets_say_pods_may_have(jobs: Namespace) -> None:
    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(values(structural_schema(PodTemplate)))
    def pods_are_accepted(template: Any) -> None:
        try:
            PodTemplate.model_validate(template)
        except ValidationError:
            reject()
        why = refusal(jobs, template)
        assert not why, f"{json.dumps(template)}\n{why}"

    pods_are_accepted()
