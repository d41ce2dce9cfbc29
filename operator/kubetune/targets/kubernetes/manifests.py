"""Builds the objects of one attempt: the plan's ConfigMap and the batch/v1 Job.

Pure functions from a RunRequest to manifests. Names follow from the owner, the run key and the
attempt alone, so an object whose creation got no answer is found again under its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic_core import to_json

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.kubernetes import KubernetesTarget
from kubetune.api.kinds.compute_target.pod_template import RUN_CONTAINER
from kubetune.api.run import plan
from kubetune.targets.kubernetes import pod_template
from kubetune.targets.kubernetes.environment import environment
from kubetune.targets.quantities import amount
from kubetune.targets.values import Owner, RunRequest

CONTAINER = RUN_CONTAINER
CA_DIRECTORY = "/kubetune/ca"
CA_FILE = f"{CA_DIRECTORY}/ca.crt"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the pod's own
USER_ID = 10001
TRAINING_GRACE_SECONDS = 120
"""Time to finish a step and save a checkpoint after SIGTERM."""
INSPECTION_DEADLINE_SECONDS = 1800


def job_name(owner: Owner, run_key: str, attempt: int, workers: int = 1) -> str:
    """Name of the Job of an attempt."""
    if workers == 1:
        return names.child_name(owner.name, run_key, str(attempt))
    # The pods' host names are the Job's name and their number, and have a limit too.
    last = names.child_name(owner.name, run_key, str(attempt), str(workers - 1))
    return last.rpartition("-")[0]


def attempt_of(job: JsonObject, owner: Owner, run_key: str) -> int | None:
    """Which attempt a Job of the owner is; None when it belongs to another run key.

    By its name, which nobody can change, unlike its labels.
    """
    name, workers = job["metadata"]["name"], int(job["spec"].get("completions") or 1)
    number = name.rpartition("-")[2]
    if not number.isdecimal() or job_name(owner, run_key, int(number), workers) != name:
        return None
    return int(number)


def plan_name(owner: Owner, run_key: str, workers: int = 1, processes: int = 1) -> str:
    """Name of the ConfigMap that all attempts with as many workers and processes share."""
    number = () if workers == 1 else (str(workers),)
    if processes > 1:
        number = (f"{workers}x{processes}",)
    return names.child_name(owner.name, run_key, "plan", *number)


def build_plan_config_map(request: RunRequest) -> JsonObject:
    """The plan and, for inline data, its rows as JSON lines; immutable, so the plan is frozen."""
    # For people to read, too; json's own indentation takes ten times as long.
    data = {"plan.json": to_json(request.plan, indent=1).decode()}
    if (rows := request.inline_rows_text) is not None:
        data["rows.jsonl"] = rows
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(request, _plan_name(request), _labels(request)),
        "immutable": True,
        "data": data,
    }


def build_service(request: RunRequest) -> JsonObject:
    """The headless Service that gives the workers' pods names, from their first moment on."""
    name = names.service_name(request.run_key)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(request, name, _labels(request)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.RUN_KEY: request.run_key, names.PURPOSE: request.purpose},
        },
    }


def build_job(request: RunRequest) -> JsonObject:
    """One attempt as a Job with a pod for each worker, never restarted after a failure.

    The processes of a worker are its own to start.

    A pod that is evicted or preempted ends the attempt, so that evictions are counted and bounded;
    the next attempt continues from the last checkpoint.
    """
    labels = {**_labels(request), names.ATTEMPT: str(request.attempt)}
    metadata = _metadata(request, _job_name(request), labels)
    several = request.workers > 1
    if request.processes > 1:
        metadata["annotations"][names.PROCESSES] = str(request.processes)
    spec: JsonObject = {
        "completions": request.workers,
        "parallelism": request.workers,
        **({"completionMode": "Indexed"} if several else {}),
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                }
            ]
        },
        "template": {
            "metadata": pod_template.metadata(
                _target(request), {"labels": labels, "annotations": _annotations(request)}
            ),
            "spec": _pod(request),
        },
    }
    if request.purpose == "inspect":
        spec["activeDeadlineSeconds"] = INSPECTION_DEADLINE_SECONDS
    elif request.deadline_seconds is not None:
        # So that it holds while no operator runs; see job_limits.py for what it counts.
        spec["activeDeadlineSeconds"] = request.deadline_seconds
        metadata["annotations"][names.LIMIT] = str(request.deadline_seconds)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _job_name(request: RunRequest) -> str:
    return job_name(request.owner, request.run_key, request.attempt, request.workers)


def _plan_name(request: RunRequest) -> str:
    return plan_name(request.owner, request.run_key, request.workers, request.processes)


def _target(request: RunRequest) -> KubernetesTarget:
    target = request.target.kubernetes
    if target is None:
        raise ValueError("request.target.kubernetes is missing: this is no Kubernetes target")
    return target


def _labels(request: RunRequest) -> dict[str, str]:
    return {
        **names.MANAGED_BY,
        names.RUN_KEY: request.run_key,
        names.PURPOSE: request.purpose,
        names.OWNER_KIND: request.owner.kind,
        # For kubectl logs -l, which knows labels alone.
        names.OWNER_NAME: names.label_value(request.owner.name),
    }


def _annotations(request: RunRequest) -> dict[str, str]:
    # A label value holds no more than 63 characters of it.
    return {names.OWNER_NAME: request.owner.name}


def _metadata(request: RunRequest, name: str, labels: dict[str, str]) -> JsonObject:
    owner = request.owner
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "annotations": _annotations(request),
        "ownerReferences": [
            {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                # True would need the right to update finalizers of the owner.
                "blockOwnerDeletion": False,
            }
        ],
    }


def _pod(request: RunRequest) -> JsonObject:
    target = _target(request)
    volumes, mounts = _volumes(request)
    pod: JsonObject = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # A model cache may hold a million files; changing each at every start takes minutes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(request, mounts)],
        "volumes": volumes,
    }
    if request.workers > 1:
        pod["subdomain"] = names.service_name(request.run_key)
    if request.purpose == "train":
        pod["terminationGracePeriodSeconds"] = TRAINING_GRACE_SECONDS
    optional = {
        **pod_template.placement(target),
        "initContainers": pod_template.init_containers(target, mounts),
        "serviceAccountName": target.service_account_name,
        "imagePullSecrets": [ref.to_json() for ref in target.image_pull_secrets or ()],
        # Whatever a run asks for: its place is the admin's.
        "nodeSelector": {**(request.resources.gpu_label or {}), **(target.node_selector or {})},
        "tolerations": [toleration.to_json() for toleration in target.tolerations or ()],
        "priorityClassName": target.priority_class_name,
        "runtimeClassName": target.runtime_class_name,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _container(request: RunRequest, mounts: list[JsonObject]) -> JsonObject:
    target = _target(request)
    amounts = _amounts(request, target.gpu_resource_name)
    amounts |= pod_template.extended_resources(target, request.purpose)
    ca_file = CA_FILE if request.target.tracking.ca_bundle else None
    container: JsonObject = {
        "name": CONTAINER,
        "image": _image(request, target),
        "command": ["python", "-m", "kubetune_runner"],
        "env": environment(request, _job_name(request), ca_file),
        "resources": {"requests": amounts | _disk(request), "limits": amounts},
        "volumeMounts": mounts,
        "securityContext": pod_template.CONTAINER_SECURITY,
        # A run that dies before it can write its outcome leaves the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if target.image_pull_policy:
        container["imagePullPolicy"] = target.image_pull_policy
    if target.env_from:
        container["envFrom"] = [source.to_json() for source in target.env_from]
    return container


def _image(request: RunRequest, target: KubernetesTarget) -> str:
    uses_axolotl = "axolotl" in (request.plan.get("training") or {})
    return (target.axolotl_image if uses_axolotl else None) or target.image


def _amounts(request: RunRequest, gpu_resource_name: str) -> dict[str, str]:
    resources = request.resources
    amounts = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.gpu:
        amounts[gpu_resource_name] = str(resources.gpu)
    return {name: given for name, given in amounts.items() if given}


def _disk(request: RunRequest) -> dict[str, str]:
    """What a run is likely to write, for the scheduler; no limit, which would evict it."""
    wanted = _target(request).ephemeral_storage
    return {"ephemeral-storage": wanted} if wanted and request.purpose != "inspect" else {}


def _half(memory: str | None) -> dict[str, str]:
    """As much of a run's memory as its shared memory, which counts as such, may be."""
    return {"sizeLimit": f"{max(1, int(amount(memory)) >> 21)}Mi"} if memory else {}


@dataclass(frozen=True)
class _Claim:
    claim: str
    path: str
    read_only: bool


def _claims(request: RunRequest) -> Iterable[_Claim]:
    target = _target(request)
    mounted = (
        (request.dataset_claim, plan.DATASET_DIRECTORY, True),
        (request.model_claim, plan.MODEL_DIRECTORY, True),
        (request.base_model_claim, plan.BASE_MODEL_DIRECTORY, True),
        (request.checkpoint_claim, plan.CHECKPOINT_DIRECTORY, False),
        (target.model_cache and target.model_cache.claim_name, plan.CACHE_DIRECTORY, False),
        *((mount.claim_name, mount.mount_path, mount.read_only) for mount in target.volumes or ()),
    )
    return (_Claim(claim, path, read_only) for claim, path, read_only in mounted if claim)


def _volumes(request: RunRequest) -> tuple[list[JsonObject], list[JsonObject]]:
    """The pod's volumes and the container's mounts."""
    volumes: list[JsonObject] = []
    mounts: list[JsonObject] = []

    def add(name: str, path: str, source: JsonObject, *, read_only: bool = False) -> None:
        volumes.append({"name": name, **source})
        mount(name, path, read_only)

    def mount(name: str, path: str, read_only: bool) -> None:
        mounts.append(
            {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}
        )

    plan_map = _plan_name(request)
    add("plan", plan.PLAN_DIRECTORY, {"configMap": {"name": plan_map}}, read_only=True)
    add("tmp", pod_template.TEMPORARY, {"emptyDir": {}})
    add("work", plan.WORK_DIRECTORY, {"emptyDir": {}})
    if request.purpose != "inspect":
        # Processes of a run pass batches and gradients to each other here; a container has 64 MiB
        # otherwise.
        size = _half(request.resources.memory)
        add("shared-memory", SHARED_MEMORY, {"emptyDir": {"medium": "Memory", **size}})
    if not _target(request).model_cache:
        add("cache", plan.CACHE_DIRECTORY, {"emptyDir": {}})
    if request.dataset_config_map:
        name, key = request.dataset_config_map
        source = {"name": name, "items": [{"key": key, "path": key}]}
        add("dataset", plan.DATASET_DIRECTORY, {"configMap": source}, read_only=True)
    if bundle := request.target.tracking.ca_bundle:
        source = {
            "name": bundle.config_map_name,
            "items": [{"key": bundle.key, "path": CA_FILE.rpartition("/")[2]}],
        }
        add("ca", CA_DIRECTORY, {"configMap": source}, read_only=True)
    # A claim may appear once in a pod however often it is mounted: some drivers attach a volume
    # per entry and wait for ever for the second one.
    volume_of: dict[str, str] = {}
    for item in _claims(request):
        if item.claim not in volume_of:
            volume_of[item.claim] = f"claim-{len(volume_of)}"
            source = {"persistentVolumeClaim": {"claimName": item.claim}}
            volumes.append({"name": volume_of[item.claim], **source})
        mount(volume_of[item.claim], item.path, item.read_only)
    return volumes, mounts
