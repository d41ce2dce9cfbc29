"""What a target's podTemplate adds to pods, and what it can't change."""

import re
from typing import Any

import pytest
from backend_objects import request
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.kubernetes import KubernetesTarget
from kubetune.api.kinds.compute_target.pod_template import PodTemplate
from kubetune.api.run import plan
from kubetune.targets.kubernetes import pod_template
from kubetune.targets.kubernetes.manifests import build_job, build_plan_config_map
from pod_template_settings import FULL
from pydantic import ValidationError

GIVEN: JsonObject = {
    "kubernetes": {
        "podTemplate": FULL,
        "volumes": [{"name": "weights", "claimName": "w", "mountPath": "/weights"}],
    }
}


def template(**given: Any) -> JsonObject:
    return build_job(request(**given))["spec"]["template"]


def without(spec: JsonObject, *fields: str) -> JsonObject:
    return {name: value for name, value in spec.items() if name not in fields}


@pytest.mark.parametrize("purpose", ["train", "evaluate", "inspect"])
def test_pods_of_all_purposes_have_it(purpose: str) -> None:
    made = template(**GIVEN, purpose=purpose)
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["annotations"]["team.example.com/note"] == "Any text: ü!"
    for field in ("affinity", "topologySpreadConstraints", "schedulerName"):
        assert made["spec"][field] == FULL[field]
    (first,) = made["spec"]["initContainers"]
    assert (first["image"], first["command"], first["args"]) == ("tools:1", ["fetch"], ["weights"])


@pytest.mark.parametrize("purpose", ["train", "evaluate", "inspect"])
def test_devices_are_limits_of_what_computes(purpose: str) -> None:
    plain = {"cpu": "1500m", "memory": "4Gi"}
    wanted = plain if purpose == "inspect" else plain | FULL["extendedResources"]
    (runner,) = template(**GIVEN, purpose=purpose)["spec"]["containers"]
    assert runner["resources"] == {"requests": wanted, "limits": wanted}


def test_what_the_operator_says_of_a_pod_stays() -> None:
    bare, full = build_job(request()), build_job(request(**GIVEN))
    before, after = bare["spec"]["template"], full["spec"]["template"]
    assert without(full["spec"], "template") == without(bare["spec"], "template")
    assert full["metadata"] == bare["metadata"]
    for field in ("labels", "annotations"):
        assert after["metadata"][field].items() >= before["metadata"][field].items()
    for field in before["spec"].keys() - {"containers", "volumes"}:
        assert after["spec"][field] == before["spec"][field], field
    (old,), (new,) = before["spec"]["containers"], after["spec"]["containers"]
    others = ("resources", "volumeMounts")
    assert without(new, *others) == without(old, *others)
    assert build_plan_config_map(request(**GIVEN)) == build_plan_config_map(request())


def test_labels_of_the_operator_win() -> None:
    """Also where a template has come past the rules."""
    owned = {"labels": {"kubetune.io/run-key": "ours"}, "annotations": {"kubetune.io/mark": "ours"}}
    theirs = {"kubetune.io/run-key": "theirs", "kubetune.io/mark": "theirs", "team": "a"}
    given = PodTemplate.model_construct(labels=theirs, annotations=theirs)
    target = KubernetesTarget.model_construct(image="i", pod_template=given)
    made = pod_template.metadata(target, owned)
    assert made["labels"] == theirs | {"kubetune.io/run-key": "ours"}
    assert made["annotations"] == theirs | {"kubetune.io/mark": "ours"}


def test_init_containers_are_restricted_and_see_nothing_of_the_job() -> None:
    spec = template(
        **GIVEN,
        dataset_claim="rows",
        checkpoint_claim="kept",
        tracking={"credentialsSecretRef": {"name": "mlflow"}},
    )["spec"]
    (first,), (runner,) = spec["initContainers"], spec["containers"]
    assert first["securityContext"] == runner["securityContext"]
    assert first["resources"]["requests"] == first["resources"]["limits"]
    assert first["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    paths = {mount["mountPath"]: mount["name"] for mount in runner["volumeMounts"]}
    shared = {"/tmp", plan.CACHE_DIRECTORY, "/weights"}
    assert {m["mountPath"]: m["name"] for m in first["volumeMounts"]} == {
        path: paths[path] for path in shared
    }
    names = [entry["name"] for entry in first["env"]]
    assert names == ["HOME", "HF_HOME", "A", "B", "C"]
    given = FULL["initContainers"][0] | {"env": [{"name": "HOME", "value": "/weights"}]}
    own = template(kubernetes={"podTemplate": {"initContainers": [given]}})["spec"]
    assert {"name": "HOME", "value": "/weights"} in own["initContainers"][0]["env"]
    assert [e["name"] for e in own["initContainers"][0]["env"]].count("HOME") == 1


def test_an_init_container_asks_for_little_where_nothing_is_said() -> None:
    given = {"name": "wait", "image": "tools:1"}
    (first,) = template(kubernetes={"podTemplate": {"initContainers": [given]}})["spec"][
        "initContainers"
    ]
    assert first["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}
    assert not {"command", "args", "imagePullPolicy"} & first.keys()


def test_pods_without_it_are_as_ever() -> None:
    for kubernetes in ({}, {"podTemplate": {}}):
        spec = template(kubernetes=kubernetes)["spec"]
        added = {"affinity", "topologySpreadConstraints", "schedulerName", "initContainers"}
        assert not added & spec.keys()
        assert template(kubernetes=kubernetes) == template()


def test_secrets_of_init_containers_need_the_consent_of_their_owners() -> None:
    assert request(**GIVEN).target.block.run_secrets == [("n", "k")]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "where",
    [
        {"hostNetwork": True},
        {"hostNetwork": False},
        {"hostPID": True},
        {"securityContext": {}},
        {"serviceAccountName": "admin"},
        {"volumes": []},
        {"containers": []},
        {"restartPolicy": "Always"},
        {"nodeName": "a"},
        {"tolerations": []},
        *(
            {"initContainers": [{"name": "a", "image": "i", **more}]}
            for more in (
                {"securityContext": {"privileged": True}},
                {"volumeMounts": []},
                {"restartPolicy": "Always"},
                {"envFrom": []},
                {"ports": []},
                {"resources": {"nvidia.com/gpu": "1"}},
                {"resources": {"limits": {"cpu": "1"}}},
            )
        ),
    ],
    ids=str,
)
def test_there_is_no_field_for_more_rights(where: JsonObject) -> None:
    with pytest.raises(ValidationError, match=re.compile("extra", re.IGNORECASE)):
        PodTemplate.model_validate(where)
