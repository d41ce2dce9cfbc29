"""Whose an object is, also when somebody has taken its owner reference or its labels away.

A PUT of a child, or of its metadata, removes what a file doesn't have. What can't be changed
still tells: the template of a Job, and the content of a plan.
"""

from __future__ import annotations

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.bounded import PLAN, json_value
from kubetune.api.conditions import Reason
from kubetune.targets.errors import BackendError, CutLooseError
from kubetune.targets.kubernetes.states import has_ended
from kubetune.targets.values import Owner, RunRequest, RunState

LOOK_AGAIN_SECONDS = 10.0
"""A Job that isn't watched tells nobody of its end."""


def refers_to(item: JsonObject, uid: str) -> bool:
    """Whether an object names another as its owner."""
    references = item["metadata"].get("ownerReferences") or ()
    return any(reference["uid"] == uid for reference in references)


def is_owned(item: JsonObject, owner: Owner) -> bool:
    """Whether an object is the owner's, by its word."""
    return refers_to(item, owner.uid)


def was_made_for(item: JsonObject, owner: Owner, run_key: str) -> bool:
    """Whether an object of a run's name was made for the run, and nobody has taken it over."""
    references = item["metadata"].get("ownerReferences") or ()
    if any(reference.get("controller") for reference in references):
        return False
    match item["kind"]:
        case "Job":
            template: JsonObject = item["spec"]["template"].get("metadata") or {}
            return (template.get("labels") or {}).get(names.RUN_KEY) == run_key
        case "ConfigMap":
            try:
                run = json_value((item.get("data") or {}).get("plan.json", ""), PLAN)["run"]
                told = (run["uid"], run["runKey"])
            except (ValueError, KeyError, TypeError):
                return False
            return item.get("immutable") is True and told == (owner.uid, run_key)
        case _:
            selector: JsonObject = item["spec"].get("selector") or {}
            return selector.get(names.RUN_KEY) == run_key


def cut_loose(job: JsonObject, attempt: int) -> RunState:
    """An attempt whose Job isn't its owner's any more, while it may run.

    It is nobody's to stop, and nothing else may start next to it.
    """
    return RunState(
        attempt,
        job["metadata"]["name"],
        "stopping",
        reason=str(Reason.STOPPING),
        message=_waits_for(job),
        foreign=True,
        look_again_seconds=LOOK_AGAIN_SECONDS,
    )


def name_taken(item: JsonObject, owner: Owner) -> BackendError:
    """Somebody else's object has the name."""
    kind, metadata = item["kind"], item["metadata"]
    return BackendError(
        Reason.NAME_TAKEN,
        f"{kind} {metadata['namespace']}/{metadata['name']} exists and does not belong to"
        f" {owner.kind} {owner.name}; delete it",
        retryable=True,
    )


def taken_by_loose(job: JsonObject, request: RunRequest) -> BackendError:
    """A Job that was cut loose has the attempt's name: it is waited for, and then passed over."""
    if not has_ended(job):
        return BackendError(
            Reason.STOPPING, _waits_for(job), retryable=True, retry_after=LOOK_AGAIN_SECONDS
        )
    name, owner = job["metadata"]["name"], request.owner
    return CutLooseError(
        f"Job {name} was cut loose from {owner.kind} {owner.name}: its result is lost"
    )


def _waits_for(job: JsonObject) -> str:
    return (
        f"Job {job['metadata']['name']} isn't ours any more, and hasn't ended: waiting for its"
        " end, or until it is deleted, before anything else starts"
    )
