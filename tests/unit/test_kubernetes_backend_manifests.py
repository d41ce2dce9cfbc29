"""What a request becomes: the parts of Job and ConfigMap that users and clusters rely on."""

import json
import re
from typing import Any

import pytest
from backend_objects import OWNER, RUN_KEY, request
from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.api.schema.base import SecretKeyRef
from kubetune.api.training.settings import Resources
from kubetune.names import label_value
from kubetune.targets.kubernetes.manifests import (
    build_job,
    build_plan_config_map,
    build_service,
    job_name,
    plan_name,
)
from kubetune.targets.kubernetes.worker_pods import processes_of
from kubetune.targets.quantities import whole_cpus
from kubetune.targets.values import Owner


def pod_spec(**given: Any) -> JsonObject:
    return build_job(request(**given))["spec"]["template"]["spec"]


def container(**given: Any) -> JsonObject:
    return pod_spec(**given)["containers"][0]


def environment(**given: Any) -> dict[str, JsonObject]:
    entries = container(**given)["env"]
    assert len({entry["name"] for entry in entries}) == len(entries), "a name was given twice"
    return {entry["name"]: entry for entry in entries}


def mounts(**given: Any) -> dict[str, JsonObject]:
    """Volume source by mount path, with the mount's own settings."""
    spec = pod_spec(**given)
    sources = {volume["name"]: volume for volume in spec["volumes"]}
    assert len(sources) == len(spec["volumes"]), "a volume name was given twice"
    return {
        mount["mountPath"]: {**sources[mount["name"]], "readOnly": mount.get("readOnly", False)}
        for mount in spec["containers"][0]["volumeMounts"]
    }


def test_a_failed_pod_is_never_replaced_and_an_evicted_one_is():
    spec = build_job(request())["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["podReplacementPolicy"] == "Failed"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_training_has_grace_and_no_deadline_and_inspection_the_opposite():
    training, inspection = build_job(request()), build_job(request(purpose="inspect"))
    assert training["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120
    assert "activeDeadlineSeconds" not in training["spec"]
    assert inspection["spec"]["activeDeadlineSeconds"] == 1800
    assert "terminationGracePeriodSeconds" not in inspection["spec"]["template"]["spec"]


def test_an_attempt_may_have_a_batch_of_its_own():
    batch = plan.BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=2)
    for workers in (1, 2):
        own = environment(batch=batch, workers=workers)
        assert own[plan.ENV_BATCH] == {"name": plan.ENV_BATCH, "value": "4x2"}
        assert plan.ENV_BATCH not in environment(workers=workers)
        changed, before = (
            build_plan_config_map(request(batch=given, workers=workers)) for given in (batch, None)
        )
        assert changed == before, "the plan is of all attempts"


def test_marks_and_owner():
    job = build_job(request())
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "kubetune",
            "kubetune.io/run-key": RUN_KEY,
            "kubetune.io/purpose": "train",
            "kubetune.io/owner-kind": "FineTuneJob",
            "kubetune.io/owner-name": "tickets",
            "kubetune.io/attempt": "2",
        }
        assert metadata["annotations"] == {"kubetune.io/owner-name": "tickets"}
    (reference,) = job["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"]) == ("uid-1", True)
    assert reference["blockOwnerDeletion"] is False


def test_long_names_are_labels_that_differ_and_whole_in_the_annotation():
    long = [f"{'a' * 51}.{'b' * 40}", f"{'a' * 51}.{'b' * 39}c"]
    shown = [label_value(name) for name in long]
    assert len(set(shown)) == 2
    for name, value in zip(long, shown, strict=True):
        assert len(value) <= 63
        assert re.fullmatch(r"a{51}-[0-9a-f]{10}", value)
        owner = Owner("v1", "FineTuneJob", "team", name, "uid")
        metadata = build_job(request(owner=owner))["spec"]["template"]["metadata"]
        assert metadata["labels"]["kubetune.io/owner-name"] == value
        assert metadata["annotations"] == {"kubetune.io/owner-name": name}
    assert label_value("a" * 63) == "a" * 63


def test_names_fit_a_label_and_differ_by_attempt():
    owner = Owner("v1", "FineTuneJob", "team", "a.long-name." * 21, "uid")
    names = {job_name(owner, RUN_KEY, attempt) for attempt in (1, 2, 101)}
    assert len(names) == 3
    assert all(len(name) <= 63 and "." not in name for name in names)
    assert plan_name(owner, RUN_KEY) not in names


def test_several_workers_are_an_indexed_job_behind_a_headless_service():
    asked = request(workers=3)
    spec, service = build_job(asked)["spec"], build_service(asked)
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    # One that is evicted ends the attempt: the others can't go on without it.
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailJob"]
    pod, name = spec["template"], service["metadata"]["name"]
    assert pod["spec"]["subdomain"] == name
    env = {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}
    host, _, port = env["KUBETUNE_RENDEZVOUS"]["value"].rpartition(":")
    assert host == f"{build_job(asked)['metadata']['name']}-0.{name}"
    assert 20000 <= int(port) < 30000
    assert "job-completion-index" in env["KUBETUNE_WORKER"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert service["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"kubetune.io/run-key": RUN_KEY, "kubetune.io/purpose": "train"},
    }
    assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()


def test_one_worker_needs_no_service():
    spec = build_job(request())["spec"]
    assert (spec["completions"], "completionMode" in spec) == (1, False)
    assert "subdomain" not in spec["template"]["spec"]
    names = {entry["name"] for entry in spec["template"]["spec"]["containers"][0]["env"]}
    assert not names & {"KUBETUNE_WORKER", "KUBETUNE_RENDEZVOUS"}


def test_host_names_of_many_workers_fit_a_label():
    owner = Owner("v1", "FineTuneJob", "team", "a.long-name." * 21, "uid")
    assert len(job_name(owner, RUN_KEY, 12, workers=256) + "-255") <= 63
    assert job_name(owner, RUN_KEY, 1) != job_name(owner, RUN_KEY, 2)
    # Another number of workers is another training, with a plan of its own.
    names = {plan_name(owner, RUN_KEY, *shape) for shape in ((), (2,), (1, 2), (2, 2), (4, 2))}
    assert len(names) == 5


def test_processes_share_a_pod_and_its_cpus():
    asked = request(processes=3, resources=Resources(cpu="7", memory="4Gi", gpu=0))
    job = build_job(asked)
    assert job["spec"]["completions"] == 1
    assert processes_of(job) == 3
    assert processes_of(build_job(request())) == 1
    spec = job["spec"]["template"]["spec"]
    env = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
    assert env["OMP_NUM_THREADS"] == "2"
    plan_map = build_plan_config_map(asked)["metadata"]["name"]
    assert named(spec["volumes"])["plan"]["configMap"]["name"] == plan_map


def test_the_pod_is_restricted():
    spec = pod_spec()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_an_empty_target_leaves_no_empty_fields():
    spec = pod_spec()
    optional = {"nodeSelector", "tolerations", "imagePullSecrets", "serviceAccountName"}
    assert not optional & spec.keys()
    assert not {"envFrom", "imagePullPolicy"} & spec["containers"][0].keys()


PLACED: JsonObject = {
    "nodeSelector": {"pool": "training", "nvidia.com/gpu.product": "any"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "imagePullPolicy": "Never",
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccountName": "runner",
    "priorityClassName": "low",
    "runtimeClassName": "nvidia",
    "gpuResourceName": "amd.com/gpu",
    "env": [{"name": "HF_ENDPOINT", "value": "https://hub.example.com"}],
    "envFrom": [{"configMapRef": {"name": "proxy"}}],
    "volumes": [{"name": "more", "claimName": "shared", "mountPath": "/data/shared"}],
}


def test_placement_comes_from_target_and_gpu_label():
    asked = Resources.model_validate(
        {
            "cpu": "8",
            "memory": "64Gi",
            "gpu": 2,
            "gpuLabel": {"nvidia.com/gpu.product": "H100", "zone": "b"},
        }
    )
    spec = pod_spec(kubernetes=PLACED, resources=asked)
    assert spec["nodeSelector"] == PLACED["nodeSelector"] | {"zone": "b"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["serviceAccountName"] == "runner"
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("low", "nvidia")
    (runner,) = spec["containers"]
    assert runner["imagePullPolicy"] == "Never"
    wanted = {"cpu": "8", "memory": "64Gi", "amd.com/gpu": "2"}
    assert runner["resources"] == {"requests": wanted, "limits": wanted}


def named(entries: list[JsonObject]) -> dict[str, JsonObject]:
    return {entry["name"]: entry for entry in entries}


def test_nothing_that_a_job_says_is_laid_over_its_target():
    given: JsonObject = {
        "resources": Resources.model_validate(
            {"cpu": "8", "gpuLabel": {"pool": "expensive", "nvidia.com/gpu.product": "H100"}}
        ),
        "tokens": {"KUBETUNE_MODEL_TOKEN": SecretKeyRef(name="hub", key="token")},
        "dataset_claim": "rows",
        "dataset_config_map": None,
        "model_claim": "models",
        "base_model_claim": "bases",
        "checkpoint_claim": "kept",
        "workers": 4,
        "deadline_seconds": 60,
    }
    plain, asked = pod_spec(kubernetes=PLACED), pod_spec(kubernetes=PLACED, **given)
    for field in plain.keys() - {"containers", "volumes", "nodeSelector"}:
        assert asked[field] == plain[field], field
    assert asked["nodeSelector"].items() >= PLACED["nodeSelector"].items()
    (before,), (after,) = plain["containers"], asked["containers"]
    for field in before.keys() - {"env", "resources", "volumeMounts"}:
        assert after[field] == before[field], field
    theirs = {entry["name"] for entry in PLACED["env"]}
    for name in theirs:
        assert named(after["env"])[name] == named(before["env"])[name]
    paths = {mount["mountPath"]: mount["name"] for mount in after["volumeMounts"]}
    claim = named(asked["volumes"])[paths["/data/shared"]]["persistentVolumeClaim"]
    assert claim == {"claimName": "shared"}


def test_own_environment():
    values = {name: entry.get("value") for name, entry in environment().items()}
    assert values == {
        "KUBETUNE_PLAN": plan.PLAN_FILE,
        "KUBETUNE_ATTEMPT": "2",
        "KUBETUNE_RUN_KEY": RUN_KEY,
        "HOME": plan.WORK_DIRECTORY,
        "TMPDIR": "/tmp",
        "HF_HOME": plan.CACHE_DIRECTORY,
        "OMP_NUM_THREADS": "2",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }


@pytest.mark.parametrize(
    ("quantity", "threads"),
    [("500m", 1), ("1", 1), ("1001m", 2), ("2.5", 3), ("16", 16), ("1k", 1000), (None, 1)],
)
def test_threads_follow_the_cpu_limit(quantity: str | None, threads: int):
    assert whole_cpus(quantity) == threads


def test_target_environment_adds_and_never_replaces():
    found = environment(
        kubernetes={
            "env": [
                {"name": "HF_ENDPOINT", "value": "https://mirror.example"},
                {"name": "MLFLOW_TRACKING_URI", "value": "http://evil"},
                {"name": "KUBETUNE_ROOT", "value": "/"},
                {
                    "name": "AWS_SECRET_ACCESS_KEY",
                    "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secret"}},
                },
            ],
            "envFrom": [{"configMapRef": {"name": "proxies"}}],
        }
    )
    assert found["HF_ENDPOINT"]["value"] == "https://mirror.example"
    assert found["MLFLOW_TRACKING_URI"]["value"] == "http://mlflow:5000"
    assert "KUBETUNE_ROOT" not in found
    reference = {"secretKeyRef": {"name": "s3", "key": "secret"}}
    assert found["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == reference
    runner = container(kubernetes={"envFrom": [{"secretRef": {"name": "more"}}]})
    assert runner["envFrom"] == [{"secretRef": {"name": "more"}}]


def test_credentials_are_references_only():
    found = environment(
        tracking={"credentialsSecretRef": {"name": "mlflow"}},
        tokens={plan.ENV_MODEL_TOKEN: SecretKeyRef(name="hub", key="token")},
    )
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        reference = found[name]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "mlflow", "key": name, "optional": True}
    # A hub token that is missing must hold the pod back, or a gated model fails later.
    token = found[plan.ENV_MODEL_TOKEN]["valueFrom"]["secretKeyRef"]
    assert token == {"name": "hub", "key": "token"}


def test_authorities_of_the_tracking_server_alone():
    given: JsonObject = {"tracking": {"caBundle": {"configMapName": "ca", "key": "root.pem"}}}
    mounted = mounts(**given)["/kubetune/ca"]
    assert mounted["configMap"] == {
        "name": "ca",
        "items": [{"key": "root.pem", "path": "ca.crt"}],
    }
    found = environment(**given)
    assert found["MLFLOW_TRACKING_SERVER_CERT_PATH"]["value"] == "/kubetune/ca/ca.crt"
    assert not {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"} & found.keys()


def test_scratch_space_and_cache():
    without = mounts()
    for path in ("/tmp", plan.WORK_DIRECTORY, plan.CACHE_DIRECTORY):
        assert without[path]["emptyDir"] == {}
    assert without[plan.PLAN_DIRECTORY]["configMap"]["name"] == plan_name(OWNER, RUN_KEY)
    assert without[plan.PLAN_DIRECTORY]["readOnly"] is True
    cached = mounts(kubernetes={"modelCache": {"claimName": "hub-cache"}})[plan.CACHE_DIRECTORY]
    assert cached["persistentVolumeClaim"] == {"claimName": "hub-cache"}
    assert cached["readOnly"] is False


@pytest.mark.parametrize(
    ("memory", "size"), [("4Gi", "2048Mi"), ("1G", "476Mi"), ("1Mi", "1Mi"), ("1.5Gi", "768Mi")]
)
@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_shared_memory_is_half_of_the_memory(memory: str, size: str, purpose: str):
    asked = Resources(cpu="1", memory=memory, gpu=0)
    mounted = mounts(resources=asked, purpose=purpose)["/dev/shm"]
    assert mounted["emptyDir"] == {"medium": "Memory", "sizeLimit": size}
    assert "/dev/shm" not in mounts(resources=asked, purpose="inspect")


def test_disk_is_asked_for_and_not_limited():
    given: JsonObject = {"kubernetes": {"ephemeralStorage": "50Gi"}}
    plain = container()["resources"]
    for purpose in ("train", "evaluate"):
        asked = container(**given, purpose=purpose)["resources"]
        assert asked["requests"] == plain["requests"] | {"ephemeral-storage": "50Gi"}
        assert asked["limits"] == plain["limits"]
    assert container(**given, purpose="inspect")["resources"] == plain
    assert "ephemeral-storage" not in plain["requests"]


def test_one_claim_is_one_volume_however_often_it_is_mounted():
    given: JsonObject = {
        "kubernetes": {
            "volumes": [{"name": "plan", "claimName": "other", "mountPath": "/data"}],
            "modelCache": {"claimName": "shared"},
        },
        "dataset_claim": "shared",
        "model_claim": "shared",
        "base_model_claim": "base",
        "checkpoint_claim": "shared",
    }
    found = mounts(**given)
    shared = {path for path, source in found.items() if source["name"] == "claim-0"}
    assert shared == {
        plan.DATASET_DIRECTORY,
        plan.MODEL_DIRECTORY,
        plan.CHECKPOINT_DIRECTORY,
        plan.CACHE_DIRECTORY,
    }
    read_only = {path for path in found if found[path]["readOnly"]}
    directories = {plan.DATASET_DIRECTORY, plan.MODEL_DIRECTORY, plan.BASE_MODEL_DIRECTORY}
    assert read_only == directories | {plan.PLAN_DIRECTORY}
    assert found["/data"]["persistentVolumeClaim"] == {"claimName": "other"}


def test_dataset_config_map_is_one_file():
    mounted = mounts(dataset_config_map=("rows", "train.csv"))[plan.DATASET_DIRECTORY]
    items = [{"key": "train.csv", "path": "train.csv"}]
    assert mounted["configMap"] == {"name": "rows", "items": items}
    assert mounted["readOnly"] is True


def test_plan_config_map_is_frozen_and_has_the_rows():
    rows = [{"text": "zwei\nZeilen – ü"}, {"text": "b"}]
    config_map = build_plan_config_map(request(inline_rows=rows))
    assert config_map["immutable"] is True
    assert json.loads(config_map["data"]["plan.json"]) == {"version": 1, "kind": "train"}
    lines = config_map["data"]["rows.jsonl"].splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert set(build_plan_config_map(request())["data"]) == {"plan.json"}
