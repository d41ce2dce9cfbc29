"""What an inspection needs that outlives its owner: a record, and a finalizer until it is gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from kubetune.decide.decision import (
    Action,
    Decision,
    DeleteRuns,
    Inspected,
    Record,
    ReleaseFinalizer,
    Stamp,
    StartRun,
)
from kubetune.decide.inspected.inspection import inspection_run_key
from kubetune.decide.inspected.shared import InspectionFacts, tidy
from kubetune.decide.resources import Resource
from kubetune.decide.target.letting_go import without_target
from kubetune.names import FINALIZER
from kubetune.targets.table import facts_of, recorded_facts


def concluded(
    resource: Resource[Any, Inspected], facts: InspectionFacts, decision: Decision[Inspected]
) -> Decision[Inspected]:
    """The decision, with what is left of an older inspection deleted, and guarded."""
    tidied = tidy(resource.owner, facts, resource.status, decision)
    return guarded(resource, facts, tidied)


def guarded(
    resource: Resource[Any, Inspected], facts: InspectionFacts, decision: Decision[Inspected]
) -> Decision[Inspected]:
    """The decision, with record and finalizer before a run, and without them after the last."""
    held = FINALIZER in resource.finalizers
    starts = False
    status = resource.status if decision.status is None else decision.status
    actions: list[Action] = []
    for action in decision.actions:
        if isinstance(action, StartRun):
            starts = True
            if facts_of(action.request.target).runs_outlive_owner:
                # Its job must be gone before it is, also when no operator runs as it is deleted.
                actions += () if held else (Stamp(finalizer=True),)
                actions.append(Record("inspection", status.get("inspection")))
        actions.append(action)
    place = (status.get("inspection") or {}).get("external") or {}
    if not held and not starts and recorded_facts(place).runs_outlive_owner:
        # A PUT of the object has taken it.
        actions.insert(0, Stamp(finalizer=True))
    if held and not starts and not _is_recorded(status):
        if _is_recorded(resource.status):
            state = resource.status.get("inspection") or {}
            if "key" in state and not any(isinstance(action, DeleteRuns) for action in actions):
                # Nobody looks for its logs there, so nothing is kept for them.
                actions.append(
                    DeleteRuns(inspection_run_key(facts.keys, resource.owner, state["key"]))
                )
            # What was found is written first: a refused patch must not lose it.
            return replace(decision, actions=tuple(actions), requeue_after=0.0)
        actions.append(ReleaseFinalizer())
    return replace(decision, actions=tuple(actions))


def _is_recorded(status: Inspected) -> bool:
    """Whether an inspection is under way, by the record of where."""
    return "external" in (status.get("inspection") or {})


def delete(
    resource: Resource[Any, Inspected], facts: InspectionFacts, now: datetime
) -> Decision[Inspected]:
    """Deleted: what outlives its owner goes first, as nobody else collects it."""
    if FINALIZER not in resource.finalizers:
        # Jobs in the cluster have an owner reference; nothing else is ours.
        return Decision()
    state = resource.status.get("inspection") or {}
    if not facts_of(facts.started).runs_outlive_owner or "key" not in state:
        return Decision((ReleaseFinalizer(),))
    run_key = inspection_run_key(facts.keys, resource.owner, state["key"])
    if facts.target_problem:
        # It ends by itself within the hour, and has no GPU: nothing to wait long for.
        return without_target(resource, facts.target_problem, (run_key,), now, over=True)
    return Decision((DeleteRuns(run_key, needed=False), ReleaseFinalizer()))
