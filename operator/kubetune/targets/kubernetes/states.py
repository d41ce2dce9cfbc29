"""Reads the state of one attempt from its Job and pods.

Pure functions, used by ``backend.py``. Whether an attempt is over is told by the Job's terminal
condition alone, which comes after its pods have ended; how it went is told by
the pod: the outcome that the runner left, else what Kubernetes says about the container.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import datetime
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.status_types import ExternalDict
from kubetune.api.run.outcome import ExitCode, Outcome, last_lines
from kubetune.api.run.redact import without_credentials
from kubetune.clients.pods import (
    any_condition,
    condition,
    container_statuses,
    failed_init,
    is_live,
    phase_of,
    running_init,
    terminated_state,
)
from kubetune.targets.kubernetes import worker_pods
from kubetune.targets.kubernetes.job_limits import limit_of
from kubetune.targets.sentences import out_of_memory, short
from kubetune.targets.values import RunPhase, RunState

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ImageInspectError",
        "ErrImageNeverPull",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
DEFAULT_SCHEDULER = "default-scheduler"
SETUP_REASONS = frozenset({"", "ContainerCreating", "PodInitializing"})


def has_ended(job: JsonObject) -> bool:
    """Whether the Job is over."""
    return bool(condition(job, "Complete") or condition(job, "Failed"))


def run_state(job: JsonObject, pods: list[JsonObject]) -> RunState:
    """The attempt's state; ``pods`` are the Job's own, in any order."""
    ended = condition(job, "Complete") or condition(job, "Failed")
    several = worker_pods.workers_of(job) > 1
    if ended:
        failed = ended["type"] == "Failed"
        pod = worker_pods.telling(pods, failed=failed) if several else _deciding_pod(pods)
        return _ended(job, ended, pod)
    if job["metadata"].get("deletionTimestamp"):
        return _state(job, "stopping", pods, Reason.STOPPING, "The run is being stopped.")
    if failure := condition(job, "FailureTarget"):
        text = failure.get("message") or "The Job has failed; its pod is being stopped."
        return _state(job, "stopping", pods, failure.get("reason", ""), text)
    pod = worker_pods.slowest(pods) if several else _live_pod(pods)
    if job["spec"].get("suspend"):
        if pod:
            return _state(job, "stopping", pods, Reason.QUEUED, "The Job was suspended.")
        text = _held_back(job)
        return _state(job, "pending", pods, Reason.QUEUED, text)
    if pod is None or len(pods) < worker_pods.workers_of(job):
        return _without_pod(job, pods)
    if phase_of(pod) == "Pending":
        reason, text = _waiting(pod)
        text = worker_pods.named(pod, worker_pods.workers_of(job), text)
        return _state(job, "pending", pods, reason, text)
    if disruption := condition(pod, "DisruptionTarget"):
        text = f"The pod is being moved away ({disruption.get('message', 'evicted')})."
        return _state(job, "running", pods, Reason.DISRUPTED, text)
    return _state(job, "running", pods, Reason.STARTED, "The run is under way.")


def _held_back(job: JsonObject) -> str:
    """A sentence about a Job that somebody else has suspended."""
    metadata = job["metadata"]
    queue = (metadata.get("labels") or {}).get(QUEUE_LABEL)
    who = f"queue {queue} of Kueue" if queue else "a queue such as Kueue"
    return (
        f"Job {metadata['name']} is suspended (its spec.suspend is true): {who} starts it when"
        " there is room."
    )


def _without_pod(job: JsonObject, pods: list[JsonObject]) -> RunState:
    """Neither ended nor a pod alive: before the first one, between two, or just done."""
    pod, wanted = _newest(pods), worker_pods.workers_of(job)
    if pod is not None and len(pods) < wanted:
        text = f"The Job has {len(pods)} of its {wanted} pods; Kubernetes makes the rest."
        return replace(_state(job, "pending", pods, Reason.POD_PENDING, text), lacks_pods=True)
    if pod is None:
        text = f"The Job has no pod yet. If it stays so: kubectl describe job {_name(job)}"
        return replace(_state(job, "pending", pods, Reason.POD_PENDING, text), lacks_pods=True)
    if disruption := condition(pod, "DisruptionTarget"):
        text = f"The pod was evicted ({disruption.get('message', '')}); a new one follows."
        return _state(job, "pending", pods, Reason.DISRUPTED, text)
    # The pod is done but the Job doesn't say so yet: only its word is final.
    return _state(job, "running", pods, Reason.ENDING, "The run has ended; Kubernetes counts it.")


def _waiting(pod: JsonObject) -> tuple[str, str]:
    """Reason and sentence of a pod that doesn't run yet."""
    scheduled = any_condition(pod, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        if scheduled.get("reason") == "SchedulingGated":
            return Reason.QUEUED, "The pod is held back by a scheduling gate."
        return Reason.UNSCHEDULABLE, short(f"No node fits: {scheduled.get('message', '')}")
    for status in container_statuses(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        reason, text = waiting.get("reason", ""), waiting.get("message", "")
        if reason in IMAGE_REASONS:
            return Reason.IMAGE_UNAVAILABLE, short(
                f"Image {status.get('image', '')} can't be pulled ({reason}): {text}"
            )
        if reason not in SETUP_REASONS:
            return reason, short(f"The container can't be made: {text or reason}")
    if name := running_init(pod):
        return Reason.POD_PENDING, f"Init container {name} runs; the run itself is next."
    spec = pod.get("spec", {})
    node, scheduler = spec.get("nodeName"), spec.get("schedulerName") or DEFAULT_SCHEDULER
    if not node:
        named = "" if scheduler == DEFAULT_SCHEDULER else f" {scheduler}"
        return Reason.POD_PENDING, f"The pod waits for the scheduler{named}."
    return Reason.POD_PENDING, f"Node {node} sets the pod up: image, volumes, Secrets."


def _ended(job: JsonObject, ended: JsonObject, pod: JsonObject | None) -> RunState:
    terminated: JsonObject = terminated_state(pod)
    said = terminated.get("message") or ""
    outcome = Outcome.from_message(said)
    if outcome is None:
        # The end of the log, of a run that could not hide its secrets itself.
        said = without_credentials(said)
        terminated = terminated | {"message": said}
    exit_code = terminated.get("exitCode")
    reason, text = "", ""
    phase: RunPhase = "succeeded"
    if ended["type"] == "Failed" and not _did_its_work(outcome, exit_code):
        phase = "failed"
        late = ended.get("reason") == "DeadlineExceeded"
        if late:
            # The clock's verdict; that it was interrupted by it explains nothing.
            outcome = None
        interrupted = exit_code == ExitCode.INTERRUPTED or (
            outcome is not None and outcome.status == "interrupted"
        )
        # The one failure policy that several workers have is about pods that were moved away.
        moved = ended.get("reason") == "PodFailurePolicy"
        if not late and (interrupted or moved or condition(pod, "DisruptionTarget")):
            phase = "preempted"
        reason, text = _failure(ended, pod, terminated)
    if outcome:
        reason, text = outcome.reason, outcome.message
    workers = worker_pods.workers_of(job)
    if phase != "succeeded" and workers > 1:
        text = worker_pods.named(pod, workers, text)
        outcome = outcome.model_copy(update={"message": text}) if outcome else None
    return RunState(
        attempt=_attempt(job),
        name=job["metadata"]["name"],
        external=_external(job),
        phase=phase,
        started_at=_time(terminated.get("startedAt") or job.get("status", {}).get("startTime")),
        ended_at=_time(terminated.get("finishedAt") or ended.get("lastTransitionTime")),
        outcome=outcome,
        exit_code=exit_code,
        reason=reason,
        message=text,
        log=last_lines(said) if phase == "failed" and outcome is None else "",
    )


def _did_its_work(outcome: Outcome | None, exit_code: int | None) -> bool:
    """Whether a run has succeeded, though its Job failed: its time was over at that moment."""
    return exit_code == ExitCode.SUCCEEDED and outcome is not None and outcome.status == "succeeded"


def _failure(ended: JsonObject, pod: JsonObject | None, terminated: JsonObject) -> tuple[str, str]:
    """Reason and sentence of a failed Job whose run left no outcome."""
    if ended.get("reason") == "DeadlineExceeded":
        return Reason.DEADLINE_EXCEEDED, "The run took longer than the Job's activeDeadlineSeconds."
    if pod is None:
        return Reason.POD_LOST, "The pod was deleted before it could say how the run ended."
    if disruption := condition(pod, "DisruptionTarget"):
        return Reason.DISRUPTED, short(f"The pod was evicted: {disruption.get('message', '')}")
    if terminated.get("reason") == "OOMKilled":
        return Reason.OUT_OF_MEMORY, out_of_memory("container")
    status = pod.get("status", {})
    if status.get("reason"):
        return status["reason"], short(f"The node refused or ended the pod: {_text(status)}")
    code = terminated.get("exitCode")
    if code is None and (failed := failed_init(pod)):
        return Reason.INIT_CONTAINER_FAILED, _init_failure(*failed)
    if code is None:
        return Reason.POD_LOST, "The pod ended without an exit code."
    if terminated.get("reason") not in (None, "Error", "Completed"):
        return terminated["reason"], short(f"The container ended: {_text(terminated)}")
    how = f"The run ended with exit code {code}{_signal_name(code)}"
    last_line = _last_line(terminated)
    return Reason.RUN_FAILED, short(f"{how}: {last_line}" if last_line else f"{how}; see its log.")


def _init_failure(name: str, ended: JsonObject) -> str:
    """A sentence about an init container that kept the run from starting."""
    code: int = ended["exitCode"]
    why = "" if ended.get("reason") in (None, "Error") else f", {ended['reason']}"
    said = without_credentials(_last_line(ended))
    how = f"init container {name} ended with exit code {code}{_signal_name(code)}{why}"
    return short(f"The run did not start: {how}: {said or 'see its log.'}")


def _last_line(terminated: JsonObject) -> str:
    return next(reversed((terminated.get("message") or "").strip().splitlines()), "")


def _text(status: JsonObject) -> str:
    return str(status.get("message") or status.get("reason") or "")


def _signal_name(code: int) -> str:
    try:
        return f" ({signal.Signals(code - 128).name})" if code > 128 else ""
    except ValueError:
        return ""


def _state(job: JsonObject, phase: Any, pods: list[JsonObject], reason: str, text: str) -> RunState:
    """A run that isn't over."""
    pod, held = _live_pod(pods) or _newest(pods), condition(job, "Suspended")
    started = [
        (status.get("state", {}).get("running") or status.get("state", {}).get("terminated") or {})
        for status in container_statuses(pod)
    ]
    return RunState(
        attempt=_attempt(job),
        name=job["metadata"]["name"],
        external=_external(job),
        phase=phase,
        started_at=_time(next((state["startedAt"] for state in started if state), None)),
        reason=str(reason),
        message=text,
        waiting_since=_time(held["lastTransitionTime"]) if held else None,
        limited=limit_of(job) is not None,
    )


def _name(job: JsonObject) -> str:
    return str(job["metadata"]["name"])


def _external(job: JsonObject) -> ExternalDict:
    return {"jobId": f"{job['metadata']['namespace']}/{job['metadata']['name']}"}


def _attempt(job: JsonObject) -> int:
    # Names end in it, and can't be changed as labels can.
    return int(job["metadata"]["name"].rpartition("-")[2])


def _live_pod(pods: list[JsonObject]) -> JsonObject | None:
    return _newest([pod for pod in pods if is_live(pod)])


def _deciding_pod(pods: list[JsonObject]) -> JsonObject | None:
    """The pod that ended the Job: the newest, and never one that was merely evicted before."""
    undisturbed = [pod for pod in pods if not condition(pod, "DisruptionTarget")]
    return _newest(undisturbed) or _newest(pods)


def _newest(pods: list[JsonObject]) -> JsonObject | None:
    return max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", default=None)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
