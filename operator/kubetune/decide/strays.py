"""Pods that have lost their Job are stopped, whatever else is decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kubetune.decide.decision import Decision, ReleaseFinalizer, Status, StopStrays
from kubetune.targets.values import RunState


def with_strays_stopped(
    decision: Decision[Status], runs: Iterable[tuple[str, Sequence[RunState]]]
) -> Decision[Status]:
    """The decision, with strays of ``runs`` stopped, given by run key.

    Not those of an object that lets its runs continue without it.
    """
    if any(isinstance(action, ReleaseFinalizer) for action in decision.actions):
        return decision
    stops = tuple(StopStrays(key) for key, states in runs if any(run.stray for run in states))
    return replace(decision, actions=(*decision.actions, *stops)) if stops else decision
