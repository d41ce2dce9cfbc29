"""The objects of the bench: inputs that are ready, jobs, and the writes that a job needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import StartRun, rfc3339
from kubetune.decide.fine_tune_job import states as fine_tune_job
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.inspected import dataset, inspection
from kubetune.decide.inspected.shared import InspectionFacts
from kubetune.decide.resources import Target
from kubetune.keys import Keyring
from kubetune.names import FINALIZER, RUN_KEY, new_run_key
from kubetune.observe.objects import parse
from kubetune.targets.kubernetes.manifests import build_job, build_plan_config_map
from kubetune.targets.kubernetes.states import run_state

TARGET = "local"
KEYS = Keyring((("1", b"a" * 32),))
"""Not the operator's: what is written here is measured and not looked at."""
DIGEST = "sha256:" + "5e" * 32

JOB_SPEC: JsonObject = {
    "modelRef": {"name": "base"},
    "datasetRef": {"name": "tickets"},
    "promptRef": {"name": "route"},
    "computeTargetRef": {"kind": "ClusterComputeTarget", "name": TARGET},
    "method": {"type": "lora", "lora": {"rank": 32, "alpha": 64, "targetModules": ["all-linear"]}},
    "hyperparameters": {
        "learningRate": 2e-3,
        "maxSteps": 300,
        "perDeviceBatchSize": 16,
        "maxLength": 96,
    },
}


def path(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    """The URL path of a namespaced collection or object."""
    prefix = {
        "jobs": "/apis/batch/v1",
        "configmaps": "/api/v1",
        "pods": "/api/v1",
        "serviceaccounts": "/api/v1",
        "persistentvolumeclaims": "/api/v1",
    }.get(kind, f"/apis/{API_VERSION}")
    parts = [f"{prefix}/namespaces/{namespace}/{kind}", name, subresource]
    return "/".join(part for part in parts if part)


def manifest(kind: str, name: str, spec: JsonObject) -> JsonObject:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def claim() -> JsonObject:
    """The claim that the inputs are on; nothing is ever bound to it."""
    spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "samples", "labels": {USE_LABEL: "data"}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def inputs() -> list[tuple[str, JsonObject]]:
    """Plural and manifest of what every job names."""
    on_target = {"computeTargetRef": {"kind": "ClusterComputeTarget", "name": TARGET}}
    rows = {"volume": {"claimName": "samples", "glob": "tickets/*.jsonl", "format": "jsonl"}}
    model = {"volume": {"claimName": "samples", "path": "model"}}
    prompt = {"prompt": "Ticket: {prompt}\nRoute:", "completion": "{completion}"}
    return [
        ("datasets", manifest("Dataset", "tickets", {"source": rows} | on_target)),
        ("models", manifest("Model", "base", {"source": model} | on_target)),
        (
            "prompttemplates",
            manifest("PromptTemplate", "route", prompt | {"datasetRef": {"name": "tickets"}}),
        ),
    ]


def ready_status(body: JsonObject, install_id: str) -> JsonObject:
    """The status that an inspection would have left; the operator finds nothing to do."""
    now = rfc3339(datetime.now(UTC))
    status: JsonObject = {
        "observedGeneration": body["metadata"]["generation"],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Inspected",
                "message": "as an inspection would have left it",
                "observedGeneration": body["metadata"]["generation"],
                "lastTransitionTime": now,
            }
        ],
    }
    found = {"attempts": 0, "time": now, "result": "found"}
    if body["kind"] == "Dataset":
        target = Target("ClusterComputeTarget", TARGET, None, True, "")
        facts = InspectionFacts(install_id, KEYS, target, ())
        plan, mounts = dataset.inspection_of(dataset.ObservedDataset(parse(body), facts))
        status |= {
            "inspection": found | {"key": inspection.inspection_key(plan, mounts)},
            "digest": DIGEST,
            "splitDigest": DIGEST,
            "rows": {"train": 2000, "evaluation": 400},
            "columns": [{"name": name, "type": "string"} for name in ("prompt", "completion")],
        }
    if body["kind"] == "Model":
        status |= {
            "inspection": found | {"key": "0" * inspection.KEY_LENGTH},
            "type": "base",
            "revision": DIGEST,
            "architecture": "LlamaForCausalLM",
            "contextLength": 256,
            "sizeBytes": 2_000_000,
        }
    return status


@dataclass(frozen=True)
class Writes:
    """What a job's submission writes, as JSON texts for one name; ``for_job`` makes more."""

    create: str
    record: str
    stamp: str
    plan: str
    job: str
    status: str
    name: str
    uid: str
    namespace: str

    def for_job(self, name: str, namespace: str, uid: str) -> Writes:
        """The same for another job. ``uid`` is known after its creation."""

        def rename(text: str) -> str:
            renamed = text.replace(self.name, name).replace(self.uid, uid)
            return renamed.replace(f'"{self.namespace}"', f'"{namespace}"')

        texts = (self.create, self.record, self.stamp, self.plan, self.job, self.status)
        create, record, stamp, plan, job, status = map(rename, texts)
        return Writes(create, record, stamp, plan, job, status, name, uid, namespace)


def submission(
    bodies: dict[str, JsonObject], target: JsonObject, name: str, install_id: str
) -> Writes:
    """The writes of one submission, from the same rules that the operator follows.

    ``bodies`` are the inputs by kind as the API server has them.
    """
    namespace = bodies["Model"]["metadata"]["namespace"]
    created = manifest("FineTuneJob", name, JOB_SPEC)
    uid, now = "00000000-0000-4000-8000-000000000000", datetime.now(UTC)
    metadata = {"uid": uid, "generation": 1, "namespace": namespace}
    metadata |= {"creationTimestamp": rfc3339(now)}
    job = parse(created | {"metadata": created["metadata"] | metadata})
    resource = parse(target)
    run_key = new_run_key(KEYS, install_id, namespace, name)
    observed = ObservedJob(
        job=job,
        install_id=install_id,
        run_key=run_key,
        stamped=False,
        fresh=True,
        recorded=False,
        target=Target("ClusterComputeTarget", TARGET, resource.spec, True, ""),
        model=parse(bodies["Model"]),
        dataset=parse(bodies["Dataset"]),
        prompt=parse(bodies["PromptTemplate"]),
    )
    first = fine_tune_job.decide(observed, now)
    request = next(action.request for action in first.actions if isinstance(action, StartRun))
    batch_job = build_job(request)
    follow = ObservedJob(
        job=parse(created | {"metadata": created["metadata"] | metadata, "status": first.status}),
        install_id=install_id,
        run_key=run_key,
        stamped=True,
        target=observed.target,
        runs=[run_state(batch_job, [])],
    )
    status = fine_tune_job.decide(follow, now).status
    stamp = {"finalizers": [FINALIZER], "annotations": {RUN_KEY: run_key}}
    return Writes(
        create=json.dumps(created),
        record=json.dumps({"status": first.status}),
        stamp=json.dumps({"metadata": stamp}),
        plan=json.dumps(build_plan_config_map(request)),
        job=json.dumps(batch_job),
        status=json.dumps({"status": status}),
        name=name,
        uid=uid,
        namespace=namespace,
    )


def pod(job: JsonObject, number: int) -> JsonObject:
    """The pod that the Job controller would make, bound to a node that doesn't exist."""
    metadata, template = job["metadata"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"]}
    owner |= {"uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name']}-{number:05}",
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [owner],
        },
        "spec": template["spec"] | {"nodeName": "bench"},
    }


def pod_running() -> JsonObject:
    state = {"running": {"startedAt": rfc3339(datetime.now(UTC))}}
    return {"status": {"phase": "Running", "containerStatuses": [_container(state, ready=True)]}}


def pod_succeeded(told: JsonObject | None = None) -> JsonObject:
    """``told`` is what its run says besides metrics."""
    now = rfc3339(datetime.now(UTC))
    metrics: JsonObject = {
        "eval_loss": 0.1234,
        "exact_match": 0.97,
        "train_loss": 0.2345,
        "perplexity": 1.13,
    }
    summary: JsonObject = {
        "metrics": metrics,
        "modelId": "m-" + "0" * 32,
        "runId": "0" * 32,
        "steps": 300,
        **(told or {}),
    }
    outcome = Outcome(
        status="succeeded", reason="Trained", message="trained 300 steps", summary=summary
    )
    terminated = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}
    state = {"terminated": terminated | {"message": outcome.to_message()}}
    return {"status": {"phase": "Succeeded", "containerStatuses": [_container(state, ready=False)]}}


def job_complete() -> JsonObject:
    now = rfc3339(datetime.now(UTC))
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
        | {"reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    times = {"startTime": now, "completionTime": now}
    return {"status": times | {"succeeded": 1, "ready": 0, "conditions": conditions}}


def _container(state: JsonObject, *, ready: bool) -> JsonObject:
    image = {"image": "kubetune.local/runner", "imageID": "", "restartCount": 0}
    return {"name": "runner", "ready": ready, "started": ready, "state": state} | image
