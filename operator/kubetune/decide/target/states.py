"""ComputeTarget and ClusterComputeTarget: Ready while runs would find what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from kubetune.api.conditions import ConditionType, Reason
from kubetune.api.kinds.compute_target.spec import DEFAULT_TARGET_ANNOTATION
from kubetune.api.kinds.status_types import ComputeTargetStatusDict
from kubetune.decide.consent import Lacking
from kubetune.decide.decision import (
    Conditions,
    Decision,
    ReleaseTarget,
    TargetDecision,
    conditions_of,
)
from kubetune.decide.resources import TargetResource
from kubetune.decide.retries import PROBE_SECONDS, next_look, until_secret
from kubetune.names import ABANDON_RUNS, IN_USE
from kubetune.targets.values import TargetProbe
from kubetune.tracking.base import StorageCheck
from kubetune.tracking.facts import tracker_facts

MOST_USERS = 5
"""So many are named."""
MOST_NAMES = 5


@dataclass(frozen=True)
class TrackingProbe:
    """What the tracking server answered."""

    version: str = ""
    error: str = ""
    reason: Reason = Reason.TRACKING_UNREACHABLE
    """What a condition says of the error."""
    storage: StorageCheck | None = None


@dataclass(frozen=True)
class ObservedTarget:
    """A target and the newest probe of what it names."""

    target: TargetResource
    lacking: Lacking | None
    """What of the Secrets that it names is missing, or not opened for it."""
    probe: TrackingProbe | None
    """None when a Secret is missing, or the place doesn't answer: nothing was asked."""
    probe_seconds: float
    """Seconds between two probes of a ready target."""
    place_probe: TargetProbe | None = None
    """None where there is nothing to ask, as in this cluster."""
    users: Sequence[str] = ()
    """Whose runs can't be reached without it: kind, namespace and name."""
    defaults: Sequence[str] = ()
    """Names of all default targets, if it is one, its own among them; the first counts."""
    settling: bool = False
    """It is too early to say that nothing is left in the place for which it is needed."""


def decide(observed: ObservedTarget, now: datetime) -> TargetDecision:
    """What to do for a target."""
    target = observed.target
    held = IN_USE in target.finalizers
    if target.deleting and held and target.annotations.get(ABANDON_RUNS) == "true":
        return Decision((ReleaseTarget(forced=True),))
    # Whatever needed it is gone without a trace: a finalizer that somebody removed by hand.
    unused = held and not observed.users and not observed.settling
    release = (ReleaseTarget(),) if unused else ()
    if target.deleting and (unused or not held):
        return Decision(release)
    return replace(_assessed(observed, now), actions=release)


def _assessed(observed: ObservedTarget, now: datetime) -> TargetDecision:
    """Whether runs would find what they need."""
    target, probe = observed.target, observed.probe
    conditions = conditions_of(target.status, target.generation, now)
    if target.deleting:
        conditions.set(ConditionType.IN_USE, True, Reason.RUNS_LEFT, _held_by(observed))
    _compare_defaults(observed, conditions)
    status: ComputeTargetStatusDict = {
        "observedGeneration": target.generation,
        "conditions": conditions.current,
    }

    # 1. The spec can't be read.
    spec = target.spec
    if spec is None:
        conditions.stalled(Reason.INVALID_SPEC, target.problem)
        return Decision(status=status)

    # 2. The credentials must be there.
    if lacking := observed.lacking:
        conditions.waiting(lacking.reason, lacking.message)
        return Decision(status=status, requeue_after=until_secret(target.waiting_since, now))

    # 3. The place must have what runs need.
    if (place := observed.place_probe) is not None:
        status |= place.status
        reason = place.reason or Reason.TARGET_AVAILABLE
        available = place.reason is None
        conditions.set(ConditionType.TARGET_AVAILABLE, available, reason, place.message)
        if not available:
            conditions.waiting(reason, place.message)
            return Decision(status=status, requeue_after=next_look(reason))

    # 4. The tracking server must answer and accept them.
    facts, uri = tracker_facts(spec), spec.tracking_uri
    if probe is None:
        return Decision(status=status, requeue_after=PROBE_SECONDS)
    if probe.error:
        reason = probe.reason
        refused = reason == Reason.TRACKING_CREDENTIALS
        named = facts.credentials_field if refused else facts.address_field
        message = f"{uri}: {probe.error}; check {named}"
        conditions.set(ConditionType.TRACKING_AVAILABLE, False, reason, message)
        conditions.waiting(reason, message)
        if version := target.status.get("trackingVersion"):
            status["trackingVersion"] = version
        return Decision(status=status, requeue_after=next_look(reason))
    status["trackingVersion"] = probe.version
    conditions.set(
        ConditionType.TRACKING_AVAILABLE,
        True,
        Reason.TRACKING_AVAILABLE,
        f"{facts.answers.format(probe.version)} at {uri}",
    )

    # 5. Artifacts must be writable.
    storage = probe.storage
    if storage and storage.writable is False:
        message = f"artifacts can't be written: {storage.message}"
        conditions.set(ConditionType.STORAGE_WRITABLE, False, Reason.STORAGE_NOT_WRITABLE, message)
        conditions.waiting(Reason.STORAGE_NOT_WRITABLE, message)
        return Decision(status=status, requeue_after=PROBE_SECONDS)
    if storage:
        conditions.set(
            ConditionType.STORAGE_WRITABLE,
            storage.writable,
            Reason.STORAGE_WRITABLE if storage.writable else Reason.STORAGE_NOT_PROXIED,
            storage.message,
        )
    conditions.ready(Reason.READY, "runs can report and results can be registered")
    return Decision(status=status, requeue_after=observed.probe_seconds)


def _held_by(observed: ObservedTarget) -> str:
    """Why a deleted target stays, and how to let it go."""
    owner, users = observed.target.owner, observed.users
    if not users:
        return "it is being deleted; first it is searched for runs of objects that are gone"
    named = ", ".join(users[:MOST_USERS])
    if len(users) > MOST_USERS:
        named += f" and {len(users) - MOST_USERS} more"
    scope = f" -n {owner.namespace}" if owner.namespace else ""
    return (
        f"it is deleted, and held with its Secrets until these have ended or are gone: {named}. To"
        f" let it go at once, and leave their runs behind: kubectl annotate {owner.kind.lower()}"
        f" {owner.name}{scope} {ABANDON_RUNS}=true"
    )


def _compare_defaults(observed: ObservedTarget, conditions: Conditions) -> None:
    """Warn on each of several default targets which of them counts."""
    target, names = observed.target, list(observed.defaults)
    if len(names) < 2 or target.name not in names:
        conditions.remove(ConditionType.DEFAULT)
        return
    others = ", ".join(names[1:MOST_NAMES])
    if len(names) > MOST_NAMES:
        others += f" and {len(names) - MOST_NAMES} more"
    message = (
        f"several are annotated with {DEFAULT_TARGET_ANNOTATION}: {names[0]}, {others}."
        f" {names[0]} is used because its name comes first; remove the annotation from the others"
    )
    first = target.name == names[0]
    conditions.set(ConditionType.DEFAULT, first, Reason.SEVERAL_DEFAULTS, message)
