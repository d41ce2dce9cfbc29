"""Models of the Job controller and of the kubelet."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.run.plan import ENV_BATCH
from kubetune.clients.kubernetes import ApiError
from kubetune.targets.kubernetes.strays import JOB_NAME

from tests.simulation.runs import Ended, Run, RunFacts

if TYPE_CHECKING:
    from tests.simulation.world import World


FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0


def has_condition(body: JsonObject, kind: str) -> bool:
    """Whether a condition of a Job or pod is true."""
    conditions: Any = (body.get("status") or {}).get("conditions") or ()
    return any(found["type"] == kind and found["status"] == "True" for found in conditions)


def is_finished(job: JsonObject) -> bool:
    """Whether a Job is over."""
    return has_condition(job, "Complete") or has_condition(job, "Failed")


def is_terminal(pod: JsonObject) -> bool:
    """Whether a pod is over."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


class JobController:
    """One pod at a time for each Job, by the Job's own rules."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._server = world.server
        self._due: set[str] = set()
        self._refused: dict[str, int] = {}
        self.counted: set[str] = set()
        """Pods whose end was taken note of: only then may they go."""
        world.server.observers.append(self._seen)

    def _seen(self, kind: str, body: JsonObject, old: JsonObject | None) -> None:
        if body["kind"] == "Job" and kind != "DELETED":
            self._look(body["metadata"]["uid"])
        elif body["kind"] == "Pod":
            for owner in (old or body)["metadata"].get("ownerReferences") or ():
                self._look(owner["uid"])

    def _look(self, uid: str, seconds: float | None = None) -> None:
        if seconds is not None:
            self._world.later(seconds, lambda: self._look(uid))
        elif uid not in self._due:
            self._due.add(uid)
            self._world.soon(lambda: self._sync(uid))

    def _sync(self, uid: str) -> None:
        self._due.discard(uid)
        key = self._server.uids.get(uid)
        job = self._server.objects[key] if key else None
        if job is None:
            return
        pods = self._server.owned_by(uid, "Pod")
        active = [pod for pod in pods if not is_terminal(pod)]
        ended = [pod for pod in pods if is_terminal(pod)]
        self.counted.update(pod["metadata"]["uid"] for pod in ended)
        if is_finished(job):
            self._stop(active)
        elif has_condition(job, "FailureTarget"):
            self._stop(active)
            if not active:
                self._end(job, "Failed")
        elif not self._ends(job, active, ended):
            self._go_on(job, active)

    def _ends(self, job: JsonObject, active: list[JsonObject], ended: list[JsonObject]) -> bool:
        status: JsonObject = job.get("status") or {}
        deadline, started = job["spec"].get("activeDeadlineSeconds"), status.get("startTime")
        if any(pod["status"]["phase"] == "Succeeded" for pod in ended):
            if not active:
                self._end(job, "Complete")
            return True
        if any(not has_condition(pod, "DisruptionTarget") for pod in ended):
            self._end(job, "FailureTarget", "BackoffLimitExceeded")
            return True
        if deadline is not None and started is not None:
            left = deadline - (self._world.now_seconds() - self._world.seconds_of(started))
            if left <= 0:
                self._end(job, "FailureTarget", "DeadlineExceeded")
                return True
            self._look(job["metadata"]["uid"], left + 0.01)
        return False

    def _go_on(self, job: JsonObject, active: list[JsonObject]) -> None:
        status: JsonObject = job.get("status") or {}
        if "deletionTimestamp" in job["metadata"]:
            return
        if job["spec"].get("suspend"):
            self._stop(active)
            if not has_condition(job, "Suspended"):
                conditions = [self._condition("Suspended", "JobSuspended")]
                self._server.set_status(job, startTime=None, conditions=conditions)
            return
        if status.get("startTime") is None or has_condition(job, "Suspended"):
            changes: JsonObject = {"startTime": self._server.timestamp()}
            if has_condition(job, "Suspended"):
                changes["conditions"] = []
            self._server.set_status(job, **changes)
        if not active:
            self._create_pod(job)

    def _create_pod(self, job: JsonObject) -> None:
        metadata, uid = job["metadata"], job["metadata"]["uid"]
        template: JsonObject = job["spec"]["template"]
        number = self._world.count("pod")
        # The API server adds it to each Job's template.
        labels = template["metadata"]["labels"] | {JOB_NAME: metadata["name"]}
        pod: JsonObject = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "labels": labels,
                "name": f"{metadata['name']}-{number}",
                "namespace": metadata["namespace"],
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": metadata["name"],
                        "uid": uid,
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": template["spec"],
        }
        try:
            self._server.create(pod)
        except ApiError as refused:
            self._world.tell("jobs", f"no pod for {metadata['name']}: {refused}")
            self._tell_of(job, f"Error creating: {refused}")
            failures = self._refused[uid] = self._refused.get(uid, 0) + 1
            pause = FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10)
            self._look(uid, min(pause, MAX_BACKOFF_SECONDS))
        else:
            self._refused.pop(uid, None)

    def _tell_of(self, job: JsonObject, message: str) -> None:
        """An Event, one for each text as long as the Job is there."""
        metadata: JsonObject = job["metadata"]
        named = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        event: JsonObject = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{zlib.crc32(message.encode()):08x}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": named,
            "reason": "FailedCreate",
            "message": message,
            "lastTimestamp": self._server.timestamp(),
        }
        key = ("Event", metadata["namespace"], event["metadata"]["name"])
        # A namespace that ends takes none, and nobody else may refuse them.
        with contextlib.suppress(ApiError):
            if self._server.find(*key) is None:
                self._server.create(event)
            else:
                self._server.patch(*key, {"lastTimestamp": event["lastTimestamp"]})

    def _stop(self, pods: list[JsonObject]) -> None:
        for pod in pods:
            metadata = pod["metadata"]
            if "deletionTimestamp" not in metadata:
                self._server.delete("Pod", metadata["namespace"], metadata["name"])

    def _end(self, job: JsonObject, kind: str, reason: str = "") -> None:
        old: list[JsonObject] = (job.get("status") or {}).get("conditions") or []
        reason = reason or next((item.get("reason", "") for item in old), "")
        condition = self._condition(kind, reason)
        self._world.tell("jobs", f"{job['metadata']['name']} is {kind} {reason}".rstrip())
        self._server.set_status(job, conditions=[*old, condition])

    def _condition(self, kind: str, reason: str) -> JsonObject:
        return {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": "",
            "lastTransitionTime": self._server.timestamp(),
        }


class Kubelet:
    """Starts pods, ends them when they are deleted, and tells how they ended."""

    def __init__(self, world: World, jobs: JobController) -> None:
        self._world = world
        self._server = world.server
        self._jobs = jobs
        self._runs: dict[str, Run] = {}
        world.server.observers.append(self._seen)

    def run_of(self, pod: JsonObject) -> Run | None:
        """What runs in a pod."""
        return self._runs.get(pod["metadata"]["uid"])

    def evict(self, pod: JsonObject) -> None:
        """A drain or a preemption: the pod is told so, and deleted."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastTransitionTime": self._server.timestamp(),
        }
        if self._server.set_status(pod, conditions=[condition]) is not None:
            metadata = pod["metadata"]
            self._server.delete("Pod", metadata["namespace"], metadata["name"])

    def _seen(self, kind: str, body: JsonObject, old: JsonObject | None) -> None:
        if body["kind"] != "Pod":
            return
        uid = body["metadata"]["uid"]
        if kind == "ADDED":
            self._world.later(self._world.draw.choice((0.5, 1.0, 3.0, 8.0)), lambda: self._run(uid))
        elif kind == "DELETED":
            if (run := self._runs.pop(uid, None)) and run.ended is None:
                run.end(Ended("failed", 137))
        elif "deletionTimestamp" in body["metadata"] and (
            old is None or "deletionTimestamp" not in old["metadata"]
        ):
            if is_terminal(body):
                self._world.soon(lambda: self._remove(uid))
            elif run := self._runs.get(uid):
                run.stop()
            else:
                # Nothing ran in it, so nothing has to be waited for.
                self._server.set_status(body, phase="Failed")
                self._world.soon(lambda: self._remove(uid))

    def _pod(self, uid: str) -> JsonObject | None:
        key = self._server.uids.get(uid)
        return self._server.objects[key] if key else None

    def _run(self, uid: str) -> None:
        pod = self._pod(uid)
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        metadata = pod["metadata"]
        if "nodeName" not in pod["spec"]:
            bound = {"spec": {"nodeName": "node"}}
            pod = self._server.patch("Pod", metadata["namespace"], metadata["name"], bound)
        plan = self._world.plan_of(pod)
        if plan is None:
            # Its volume can't be mounted: the kubelet tries again.
            self._world.later(10.0, lambda: self._run(uid))
            return
        labels: JsonObject = metadata["labels"]
        told: list[JsonObject] = pod["spec"]["containers"][0]["env"]
        facts = RunFacts(
            name=metadata["name"],
            run_key=labels[names.RUN_KEY],
            purpose=labels[names.PURPOSE],
            attempt=int(labels[names.ATTEMPT]),
            batch=next((item["value"] for item in told if item["name"] == ENV_BATCH), ""),
        )
        run = Run(
            self._world,
            facts,
            plan,
            report=lambda ended: self._ended(uid, ended),
            evict=lambda: self._world.evict(uid),
        )
        self._runs[uid] = run
        started = {"running": {"startedAt": self._server.timestamp()}}
        container = {"name": "runner", "state": started, "image": ""}
        self._server.set_status(pod, phase="Running", containerStatuses=[container])
        run.start()

    def _ended(self, uid: str, ended: Ended) -> None:
        pod = self._pod(uid)
        if pod is None:
            return
        state: JsonObject = {
            "exitCode": ended.exit_code,
            "reason": ended.reason or ("Completed" if ended.exit_code == 0 else "Error"),
            "startedAt": pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"],
            "finishedAt": self._server.timestamp(),
        }
        if ended.message:
            state["message"] = ended.message
        container = {"name": "runner", "state": {"terminated": state}, "image": ""}
        phase = "Succeeded" if ended.exit_code == 0 else "Failed"
        written = self._server.set_status(pod, phase=phase, containerStatuses=[container])
        if written and "deletionTimestamp" in written["metadata"]:
            self._world.soon(lambda: self._remove(uid))

    def _remove(self, uid: str) -> None:
        pod = self._pod(uid)
        if pod is None:
            return
        owners: Any = pod["metadata"].get("ownerReferences") or ()
        held = [owner for owner in owners if owner["uid"] in self._server.uids]
        if held and uid not in self._jobs.counted:
            # The Job controller's finalizer: the end must be counted first.
            self._world.later(1.0, lambda: self._remove(uid))
            return
        self._server.remove(pod)
