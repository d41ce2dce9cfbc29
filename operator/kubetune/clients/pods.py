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
    # Initialisation containers are not ours; a cluster's admission may add some.
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def terminated_state(pod: JsonObject | None) -> JsonObject:
    """How the run's container ended; empty while it hasn't."""
    for status in (pod or {}).get("status", {}).get("containerStatuses") or ():
        if status["name"] == "runner":
            return status.get("state", {}).get("terminated") or {}
    return {}
