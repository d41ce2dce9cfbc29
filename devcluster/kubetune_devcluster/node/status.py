"""The pod status that the API server and the Job controller get; pure functions.

A container's state is the Kubernetes form: a dictionary with one key, `waiting`, `running` or
`terminated`.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from .client import Object

State = dict[str, Any]
FINISHED = ("Succeeded", "Failed")


@dataclass
class Verdict:
    """What the node itself has decided about a pod, beyond what its containers' states say."""

    failed: bool = False
    """The pod failed whatever its containers did: too late, or stopped by the node."""
    reason: str | None = None
    message: str | None = None
    waiting: bool = False
    """The node can't run the pod as it is; reason and message say why. It stays Pending."""
    disrupted: str | None = None
    """Message of the DisruptionTarget condition: the node and not the pod caused the failure."""


@dataclass
class Facts:
    """What the node knows of a pod, besides its object."""

    addresses: dict[str, str]
    images: dict[str, str]
    """Image id (the environment's folder) by image name."""
    start_time: str
    states: dict[str, State] = field(default_factory=dict)
    """By container name; a container without one is still to be created."""


def now() -> str:
    """The time now as Kubernetes writes it, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def phase(pod: Object, states: dict[str, State], verdict: Verdict) -> str:
    """The phase that the containers' states and the node's verdict make."""
    init = [states.get(c["name"], {}) for c in pod["spec"].get("initContainers") or ()]
    main = [states.get(c["name"], {}) for c in pod["spec"]["containers"]]
    if verdict.failed or any(_exit_code(state) for state in init):
        return "Failed"
    if all("terminated" in state for state in main):
        return "Failed" if any(_exit_code(state) for state in main) else "Succeeded"
    if any("running" in state or "terminated" in state for state in main):
        return "Running"
    return "Pending"


def build(pod: Object, facts: Facts, verdict: Verdict) -> Object:
    """The status for a strategic merge patch; conditions of others (PodScheduled) stay."""
    states = facts.states
    init = pod["spec"].get("initContainers") or []
    main = pod["spec"]["containers"]
    reached = phase(pod, states, verdict)
    finished = reached in FINISHED
    initialized = all(_exit_code(states.get(c["name"], {})) == 0 for c in init)
    running = all("running" in states.get(c["name"], {}) for c in main)
    ready = running and not finished
    why = ("PodCompleted" if reached == "Succeeded" else "PodFailed") if finished else None
    if verdict.waiting and not finished:
        why = verdict.reason
    why_not = None if ready else why or "ContainersNotReady"
    obstacle = (verdict.message or "") if verdict.waiting and not finished else ""
    previous = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}

    def condition(kind: str, true: bool, reason: str | None = None, message: str = "") -> Object:
        value = "True" if true else "False"
        last = previous.get(kind) or {}
        since = last.get("lastTransitionTime") if last.get("status") == value else None
        made: Object = {
            "type": kind,
            "status": value,
            "lastTransitionTime": since or now(),
        }
        made |= {"reason": reason, "message": message or None}
        return made

    conditions = [
        condition(
            "PodReadyToStartContainers",
            not finished and not verdict.waiting,
            verdict.reason if obstacle else None,
            obstacle,
        ),
        condition(
            "Initialized",
            initialized,
            None if initialized else "ContainersNotInitialized",
        ),
        condition("ContainersReady", ready, why_not, obstacle),
        condition("Ready", ready, why_not, obstacle),
    ]
    if verdict.disrupted:
        reason = "TerminationByKubelet"
        conditions.append(condition("DisruptionTarget", True, reason, verdict.disrupted))
    address = facts.addresses
    return {
        "phase": reached,
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": pod["metadata"].get("generation"),
        "startTime": facts.start_time,
        "hostIP": address["hostIP"],
        "hostIPs": [{"ip": address["hostIP"]}],
        "podIP": address["podIP"],
        "podIPs": [{"ip": address["podIP"]}],
        "conditions": conditions,
        "initContainerStatuses": [_container(pod, c, facts, finished) for c in init],
        "containerStatuses": [_container(pod, c, facts, finished) for c in main],
    }


def _container(pod: Object, container: Object, facts: Facts, finished: bool) -> Object:
    name, image = container["name"], container["image"]
    state = facts.states.get(name)
    if state is None:
        # What never started can't be left waiting in a finished pod without a reason.
        state = {"waiting": {"reason": "NotStarted" if finished else "ContainerCreating"}}
    begun = "waiting" not in state
    return {
        "name": name,
        "image": image,
        "imageID": facts.images.get(image, ""),
        "ready": "running" in state or (_exit_code(state) == 0 and _is_init(pod, name)),
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
        "lastState": {},
        "containerID": f"kubetune://{pod['metadata']['uid']}.{name}" if begun else "",
    }


def terminated(
    code: int, reason: str, message: str, started: str | None, finished: str | None
) -> State:
    """The state of a container that has ended; times in RFC 3339, fractions are cut."""
    state: Object = {"exitCode": code, "reason": reason, "message": message or None}
    state["startedAt"] = f"{started[:19]}Z" if started else None
    state["finishedAt"] = f"{finished[:19]}Z" if finished else None
    return {"terminated": state}


def _exit_code(state: State) -> int | None:
    return state["terminated"]["exitCode"] if "terminated" in state else None


def _is_init(pod: Object, name: str) -> bool:
    return any(c["name"] == name for c in pod["spec"].get("initContainers") or ())
