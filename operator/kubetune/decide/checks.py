"""Checks of inputs: each looks at one thing, and the first that finds something is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from kubetune.api.conditions import Phase, Reason
from kubetune.decide.consent import Lacking
from kubetune.decide.resources import Resource, Target
from kubetune.decide.waiting import NotReady

ObservedT = TypeVar("ObservedT")
Check = Callable[[ObservedT], NotReady | None]


def first_problem(checks: Iterable[Check[ObservedT]], observed: ObservedT) -> NotReady | None:
    """What the first check finds that finds something; None where nothing stands in the way."""
    return next((problem for check in checks if (problem := check(observed))), None)


def refused(message: str, reason: Reason = Reason.INPUTS_REFUSED) -> NotReady:
    """Something that only a change by the user helps."""
    return NotReady(Phase.PENDING, reason, message, refused=True)


def refused_if(problem: str | None, reason: Reason = Reason.INPUTS_REFUSED) -> NotReady | None:
    """Refused where there is a problem."""
    return refused(problem, reason) if problem else None


class Submitted(Protocol):
    """What every check of something that runs may look at."""

    @property
    def target(self) -> Target:
        """Where it would run."""
        ...

    @property
    def lacking(self) -> Lacking | None:
        """A Secret or claim that is missing, or not opened for its use."""
        ...


def target_created(observed: Submitted) -> NotReady | None:
    """There is no target, or none that can be read."""
    if observed.target.spec is None:
        return NotReady(Phase.PENDING, Reason.TARGET_MISSING, observed.target.why_not)
    return None


def target_ready(observed: Submitted) -> NotReady | None:
    """The target isn't Ready."""
    if not observed.target.ready:
        return NotReady(Phase.PREPARING, Reason.TARGET_NOT_READY, observed.target.why_not)
    return None


def nothing_lacking(observed: Submitted) -> NotReady | None:
    """A Secret or claim is missing, a key of one, or its owner's consent."""
    return not_there(observed.lacking)


def not_there(lacking: Lacking | None) -> NotReady | None:
    """What can't be had yet, if anything."""
    return NotReady(Phase.PREPARING, lacking.reason, lacking.message) if lacking else None


@dataclass(frozen=True)
class NamedInput:
    """An object that a spec names."""

    kind: str
    name: str | None
    """None where the spec names none."""
    found: Resource[Any, Any] | None
    missing: Reason
    not_ready: Reason


def not_created(inputs: Iterable[NamedInput]) -> NotReady | None:
    """The first of the inputs that isn't there."""
    for each in inputs:
        if each.name and each.found is None:
            message = f"waiting for {each.kind} {each.name} to be created"
            return NotReady(Phase.PENDING, each.missing, message)
    return None


def not_ready(inputs: Iterable[NamedInput]) -> NotReady | None:
    """The first of the inputs that isn't Ready."""
    for each in inputs:
        if each.name and each.found is not None and not each.found.is_ready:
            why = each.found.why_not_ready
            message = f"waiting for {each.kind} {each.name} to be Ready; {why}"
            return NotReady(Phase.PREPARING, each.not_ready, message)
    return None
