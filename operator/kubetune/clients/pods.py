"""What Kubernetes says of a Job or a pod: its conditions, its phase, how its container ended."""

from __future__ import annotations

from kubetune.api import JsonObject


def condition(item: JsonObject | None, kind: str) -> JsonObject | None:
    """The condition when it is true."""
    found = any_condition(item, kind)
    return found if found and found.get("status") == "True" else None


def any_condition(item: JsonObject | None, kind: str) -> JsonObject | None:
    """The condition, whatever it says."""
    conditions = (item or {}).get("status", {}).get("conditions") or ()
    return next((found for found in conditions if found["type"] == kind), None)


def phase_of(pod: JsonObject) -> str:
    """A pod's phase."""
    return pod.get("status", {}).get("phase", "Pending")


def is_live(pod: JsonObject) -> bool:
    """Whether a pod has not ended."""
    return phase_of(pod) not in ("Succeeded", "Failed")


def container_statuses(pod: JsonObject | None) -> list[JsonObject]:
    """What is known of all containers."""
    status = (pod or {}).get("status", {})
    # Init containers are those of the target's podTemplate; a cluster's admission may add some.
    return [*_init_statuses(pod), *(status.get("containerStatuses") or ())]


def terminated_state(pod: JsonObject | None) -> JsonObject:
    """How the run's container ended; empty while it hasn't."""
    for status in (pod or {}).get("status", {}).get("containerStatuses") or ():
        if status["name"] == "runner":
            return status.get("state", {}).get("terminated") or {}
    return {}


def running_init(pod: JsonObject | None) -> str:
    """Name of the init container that runs now; empty when none does."""
    for status in _init_statuses(pod):
        if (status.get("state") or {}).get("running"):
            return str(status["name"])
    return ""


def failed_init(pod: JsonObject | None) -> tuple[str, JsonObject] | None:
    """Name of the init container that kept the run from starting, and how it ended."""
    for status in _init_statuses(pod):
        ended: JsonObject = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return str(status["name"]), ended
    return None


def _init_statuses(pod: JsonObject | None) -> list[JsonObject]:
    return (pod or {}).get("status", {}).get("initContainerStatuses") or []
