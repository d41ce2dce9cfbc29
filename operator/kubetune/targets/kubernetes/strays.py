"""Pods that have lost their Job and still run: a deletion of the Job may leave them, and some do.

A bare DELETE of a batch/v1 Job, or one with ``--cascade=orphan``, takes the Job and lets its pods
run. They write the same checkpoints as the next attempt would.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.keys import Keyring
from kubetune.targets.kubernetes.ownership import JOB_NAME, is_run_of
from kubetune.targets.values import Owner, RunState

LOOK_AGAIN_SECONDS = 10.0
"""After so long an ending pod is asked for, in case its watch is silent."""


def without_job(
    pods: Iterable[JsonObject],
    owner: Owner,
    run_key: str,
    job_uids: Collection[str],
    keys: Keyring,
) -> list[JsonObject]:
    """Those of the living pods of a run key whose Job isn't among the owner's."""
    return [
        pod
        for pod in pods
        if _controller(pod) not in job_uids
        and is_run_of(pod, owner, keys)
        and _attempt(pod, run_key) is not None
        and pod["metadata"]["labels"].get(names.OWNER_KIND) == owner.kind
        and (pod["metadata"].get("annotations") or {}).get(names.OWNER_NAME) == owner.name
    ]


def is_loose(pod: JsonObject) -> bool:
    """Whether nobody else would end the pod: nothing controls it, and it isn't being deleted."""
    metadata = pod["metadata"]
    return _controller(pod) is None and not metadata.get("deletionTimestamp")


def controlled_by(pod: JsonObject) -> tuple[str, str] | None:
    """Name and uid of the Job that controls a pod, by its word: the Job may be gone."""
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("name")), str(reference["uid"])
    return None


def stray_states(
    pods: Iterable[JsonObject], run_key: str, jobs_there: Collection[str] = ()
) -> list[RunState]:
    """The attempts that such pods belong to, as being stopped.

    ``jobs_there`` are uids of Jobs that exist, but aren't the owner's.
    """
    found: dict[int, RunState] = {}
    for pod in pods:
        attempt, name = _attempt(pod, run_key), pod["metadata"]["name"]
        if attempt is None:
            continue
        job = pod["metadata"]["labels"][JOB_NAME]
        text = f"pod {name} of attempt {attempt} still runs, though Job {job} is gone or isn't ours"
        before = found.get(attempt)
        found[attempt] = RunState(
            attempt,
            job,
            "stopping",
            reason=str(Reason.STOPPING),
            message=f"{text}: waiting for its end before anything else starts",
            stray=is_loose(pod) or bool(before and before.stray),
            # The garbage collector takes a Job away first, and then its pods' word for it.
            foreign=_controller(pod) in jobs_there,
            look_again_seconds=None if is_loose(pod) else LOOK_AGAIN_SECONDS,
        )
    return list(found.values())


def _attempt(pod: JsonObject, run_key: str) -> int | None:
    job = (pod["metadata"].get("labels") or {}).get(JOB_NAME, "")
    number = job.rpartition("-")[2]
    if names.run_key_in(job) != run_key or not number.isdecimal():
        return None
    return int(number)


def _controller(pod: JsonObject) -> str | None:
    controller = controlled_by(pod)
    return controller[1] if controller else None
