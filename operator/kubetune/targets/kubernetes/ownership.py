"""Whether an object is a run's own: the one place where that is decided.

Anybody with rights in a namespace can write labels, owner references and names. What is made here
carries a mark besides, a code over its namespace and name that only the operator can compute, where
no user's PUT removes it: in the template of a Job, and with the content of a plan.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.keys import Keyring
from kubetune.targets.errors import BackendError, CutLooseError
from kubetune.targets.kubernetes.manifests import attempt_of
from kubetune.targets.kubernetes.states import has_ended
from kubetune.targets.values import Owner, RunRequest, RunState

LOOK_AGAIN_SECONDS = 10.0
"""A Job that isn't watched tells nobody of its end."""
JOB_NAME = "batch.kubernetes.io/job-name"
FIXED_SERVICE_FIELDS = ("clusterIP", "publishNotReadyAddresses", "selector")


def marked(manifest: JsonObject, keys: Keyring) -> JsonObject:
    """What is about to be made, with its mark."""
    mark = mark_of(manifest, keys)
    manifest["metadata"]["annotations"] |= mark
    if manifest["kind"] == "Job":
        manifest["spec"]["template"]["metadata"]["annotations"] |= mark
    return manifest


def mark_of(item: JsonObject, keys: Keyring) -> dict[str, str]:
    """The mark of an object as it is."""
    return {names.MARK: keys.code(*_marked_parts(item))}


def has_mark(item: JsonObject, keys: Keyring) -> bool:
    """Whether the operator has made an object of this name, and a plan with this content."""
    found = {_annotations(item).get(names.MARK)}
    if item["kind"] == "Job":
        template: JsonObject = item["spec"].get("template") or {}
        found.add(_annotations(template).get(names.MARK))
    parts = _marked_parts(item)
    return any(mark and keys.verifies(mark, *parts) for mark in found)


def controller_of(item: JsonObject) -> JsonObject | None:
    """The one reference that says who controls an object."""
    references: list[JsonObject] = item["metadata"].get("ownerReferences") or []
    controllers = [reference for reference in references if reference.get("controller") is True]
    return controllers[0] if len(controllers) == 1 else None


def why_foreign(job: JsonObject, owner: Owner, run_key: str, keys: Keyring) -> str:
    """Why a Job isn't an attempt of the owner's; empty when it is one.

    Labels don't matter: those of an attempt are put right.
    """
    if problem := _why_not_owned(job, owner):
        return problem
    if attempt_of(job, owner, run_key) is None:
        return "it doesn't have the name of one of its attempts"
    return "" if has_mark(job, keys) else "it lacks the operator's mark"


def was_made_for(job: JsonObject, owner: Owner, run_key: str, keys: Keyring) -> bool:
    """Whether a Job is an attempt of which somebody has taken the owner reference away."""
    references: list[JsonObject] = job["metadata"].get("ownerReferences") or []
    return (
        not any(reference.get("controller") for reference in references)
        and job["metadata"]["namespace"] == owner.namespace
        and attempt_of(job, owner, run_key) is not None
        and has_mark(job, keys)
    )


def is_run_of(pod: JsonObject, owner: Owner, keys: Keyring) -> bool:
    """Whether a pod comes from a Job that the operator has made in the owner's namespace."""
    metadata = pod["metadata"]
    job = (metadata.get("labels") or {}).get(JOB_NAME, "")
    mark = _annotations(pod).get(names.MARK)
    if metadata["namespace"] != owner.namespace or not (job and mark):
        return False
    return keys.verifies(mark, "Job", owner.namespace, job)


def pods_of(job: JsonObject, pods: Iterable[JsonObject]) -> list[JsonObject]:
    """Those of the pods that are a Job's own: anybody may write its uid into another's."""
    metadata = job["metadata"]
    wanted = ("Job", metadata["name"], metadata["uid"])
    found: list[JsonObject] = []
    for pod in pods:
        reference = controller_of(pod) or {}
        told = (reference.get("kind"), reference.get("name"), reference.get("uid"))
        if pod["metadata"]["namespace"] == metadata["namespace"] and told == wanted:
            found.append(pod)
    return found


def why_not_adopted(found: JsonObject, manifest: JsonObject, owner: Owner, keys: Keyring) -> str:
    """Why a ConfigMap or Service that has a child's name isn't used as that child; empty if it is.

    It may have lost its owner reference, but never be another's, and it has what we have given it.
    """
    made_here = has_mark(found, keys)
    if found["metadata"].get("ownerReferences"):
        if problem := _why_not_owned(found, owner):
            return problem
    elif not made_here:
        return "it has neither an owner nor the operator's mark"
    if found["kind"] == "ConfigMap":
        if found.get("immutable") is not True:
            return "it isn't immutable"
        same = found.get("data") == manifest["data"] and not found.get("binaryData")
        return "" if same or made_here else "its content isn't the operator's"
    spec, wanted = found["spec"], manifest["spec"]
    other = any(spec.get(field) != wanted[field] for field in FIXED_SERVICE_FIELDS)
    return "it leads elsewhere" if other or spec.get("type", "ClusterIP") != "ClusterIP" else ""


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


def name_taken(item: JsonObject, owner: Owner, why: str) -> BackendError:
    """Somebody else's object has the name."""
    kind, metadata = item["kind"], item["metadata"]
    return BackendError(
        Reason.NAME_TAKEN,
        f"{kind} {metadata['namespace']}/{metadata['name']} exists and does not belong to"
        f" {owner.kind} {owner.name}, as {why}; delete it",
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


def is_owned(item: JsonObject, owner: Owner) -> bool:
    """Whether an object is controlled by the owner and in its namespace, by its word."""
    return not _why_not_owned(item, owner)


def _why_not_owned(item: JsonObject, owner: Owner) -> str:
    metadata = item["metadata"]
    if metadata["namespace"] != owner.namespace:
        return f"it is in another namespace than {owner.kind} {owner.namespace}/{owner.name}"
    reference = controller_of(item) or {}
    # The uid first: it alone tells most apart.
    if (
        reference.get("uid") != owner.uid
        or reference.get("name") != owner.name
        or reference.get("kind") != owner.kind
        or reference.get("apiVersion") != owner.api_version
    ):
        return f"{owner.kind} {owner.name} isn't the one controller in its ownerReferences"
    return ""


def _marked_parts(item: JsonObject) -> tuple[str, ...]:
    """What the mark of an object is about. Plans: with the content, which is the run's."""
    kind, metadata = item["kind"], item["metadata"]
    content: list[str] = []
    if kind == "ConfigMap":
        for given in (item.get("data") or {}, item.get("binaryData") or {}):
            content.append(str(len(given)))
            for key in sorted(given):
                content += (key, given[key])
    return (kind, metadata["namespace"], metadata["name"], *content)


def _annotations(item: JsonObject) -> dict[str, str]:
    return (item.get("metadata") or {}).get("annotations") or {}


def _waits_for(job: JsonObject) -> str:
    return (
        f"Job {job['metadata']['name']} isn't ours any more, and hasn't ended: waiting for its"
        " end, or until it is deleted, before anything else starts"
    )
