"""The rules that Dataset, Model and PromptTemplate share: target, Secrets, inspection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kubetune.api.conditions import InspectionResult, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import (
    DatasetStatusDict,
    InspectionStateDict,
    ModelStatusDict,
    PromptTemplateStatusDict,
    RecordedTargetDict,
)
from kubetune.api.run.plan import InspectionPlan, RunIdentity, TrackingPlan
from kubetune.decide.consent import Lacking
from kubetune.decide.decision import Action, Conditions, Decision, DeleteRuns, Inspected
from kubetune.decide.inspected import inspection
from kubetune.decide.resources import Target, TargetProblem
from kubetune.decide.retries import TARGET_SECONDS, until_secret
from kubetune.decide.sources import Mounts, unreachable
from kubetune.decide.target.place import record, same_place
from kubetune.keys import Keyring
from kubetune.targets.values import Owner, RunState

MOVE_SECONDS = 5.0
"""A Job that is being deleted tells of its end itself; this is for when it doesn't."""


@dataclass(frozen=True)
class InspectionFacts:
    """What was observed besides the object itself."""

    install_id: str
    keys: Keyring
    target: Target
    runs: Sequence[RunState]
    """Runs of the key that ``inspection.inspection_run_key`` gives."""
    started: ComputeTargetSpec | None = None
    """Where a run was started, by the record in status."""
    target_problem: TargetProblem | None = None
    """Why the target could not be asked about runs."""
    lacking: Lacking | None = None
    """A Secret or claim that is missing, or not opened for its use."""
    twin: DatasetStatusDict | ModelStatusDict | PromptTemplateStatusDict | None = None
    """Status of a settled object of the same kind, namespace and inspection key."""
    left: ComputeTargetSpec | None = None
    """Where runs are that were begun on another default target and haven't started."""

    @property
    def place(self) -> ComputeTargetSpec | None:
        """Where its runs are; before the first one, where it will be."""
        return self.started or self.target.spec


def identity(owner: Owner, install_id: str) -> RunIdentity:
    """The run identity of an inspection; its key is filled in when it starts."""
    return RunIdentity(
        install_id=install_id, run_key="", namespace=owner.namespace, name=owner.name, uid=owner.uid
    )


def tracking_plan(target: ComputeTargetSpec, namespace: str) -> TrackingPlan:
    """Where a run reports."""
    tracking = target.tracking
    return TrackingPlan(uri=tracking.run_uri, experiment=tracking.experiment_in(namespace))


def inspections_plan(target: ComputeTargetSpec, namespace: str) -> TrackingPlan:
    """Where an inspection reports."""
    tracking = target.tracking
    return TrackingPlan(uri=tracking.run_uri, experiment=tracking.inspections_in(namespace))


def inspect(
    owner: Owner,
    status: Inspected,
    facts: InspectionFacts,
    plan: InspectionPlan,
    mounts: Mounts,
    waiting_since: datetime | None,
    now: datetime,
) -> inspection.Step:
    """Bring an inspection forward, or repeat what a settled one has found."""
    key = inspection.inspection_key(plan, mounts, facts.target.label)
    state: InspectionStateDict = status.get("inspection") or {}
    target = facts.target
    # 1. Settled: only what is left of its runs has to go.
    if inspection.settled(state, key):
        kept = inspection.kept_seconds(state, now) if facts.runs else 0.0
        gone = bool(facts.runs) and not kept
        clean_up: tuple[Action, ...] = (
            (DeleteRuns(inspection.inspection_run_key(facts.keys, owner, key)),) if gone else ()
        )
        if state.get("result") == InspectionResult.FOUND:
            return inspection.Step(inspection.Found(status), state, clean_up)
        reason = state.get("reason", Reason.INSPECTION_FAILED)
        refused = inspection.Refused(reason, state.get("message", ""), status)
        return inspection.Step(refused, state, clean_up, kept or None)
    if state.get("key") != key:
        # The spec changed: nothing of the old state holds. ``tidy`` deletes its runs.
        state = {"key": key, "attempts": 0}
    # 2. Another object of the namespace has read the same.
    if facts.twin is not None and "inspection" in facts.twin:
        return inspection.Step(inspection.Found(facts.twin), facts.twin["inspection"].copy())
    # 3. What the run would need.
    if facts.lacking:
        waiting = inspection.Waiting(facts.lacking.reason, facts.lacking.message)
        return inspection.Step(waiting, state, requeue_after=until_secret(waiting_since, now))
    if target.spec is None:
        return inspection.Step(inspection.Waiting(Reason.TARGET_MISSING, target.why_not), state)
    if not target.ready:
        return inspection.Step(inspection.Waiting(Reason.TARGET_NOT_READY, target.why_not), state)
    if problem := unreachable(mounts, target.spec):
        refused = inspection.Refused(Reason.SOURCE_UNREACHABLE, problem, {})
        return inspection.Step(refused, state)
    run_key, external = inspection.inspection_run_key(facts.keys, owner, key), state.get("external")
    moved = bool(facts.started and external and _is_elsewhere(facts.started, external, target))
    if facts.target_problem and not moved:
        trouble = facts.target_problem
        waiting = inspection.Waiting(trouble.reason, trouble.message)
        return inspection.Step(waiting, state, requeue_after=TARGET_SECONDS)
    # 4. What waits on the target that was the default before is of no use, and neither is what was
    # started on one that is another by now. Nothing of it may run next to the next one.
    left = facts.left or (facts.started if moved and facts.runs else None)
    if left is not None:
        before = (external or {}).get("target")
        message = f"{target.label} reads the source, once nothing is left of the run on {before}"
        waiting = inspection.Waiting(Reason.INSPECTING, message)
        gone = DeleteRuns(run_key, elsewhere=left, needed=not moved)
        return inspection.Step(waiting, state, (gone,), MOVE_SECONDS)
    # 5. The run; of one that was started elsewhere, and can't be seen, nothing stays.
    runs = () if moved else facts.runs
    clear = (DeleteRuns(run_key, elsewhere=facts.started, needed=False),) if moved else ()
    wanted = record(target, owner.namespace)
    state = state | {"external": external if runs and external else wanted}
    plan = plan.model_copy(update={"tracking": inspections_plan(target.spec, owner.namespace)})
    request = inspection.request(owner, plan, mounts, target.spec)
    step = inspection.step(request, run_key, state, runs, now)
    return replace(step, actions=(*clear, *step.actions))


def _is_elsewhere(started: ComputeTargetSpec, external: RecordedTargetDict, target: Target) -> bool:
    """Whether another target is named by now, or this one leads to another place."""
    if external.get("target") != target.label or target.spec is None:
        return True
    return not same_place(started, target.spec)


def tidy(
    owner: Owner, facts: InspectionFacts, old: Inspected, decision: Decision[Inspected]
) -> Decision[Inspected]:
    """Add the deletion of what an inspection started that the new status no longer knows."""
    known = (old.get("inspection") or {}).get("key")
    if decision.status is None or known is None:
        return decision
    if (decision.status.get("inspection") or {}).get("key") == known:
        return decision
    gone = DeleteRuns(inspection.inspection_run_key(facts.keys, owner, known))
    return replace(decision, actions=(gone, *decision.actions))


def conclude(
    status: Inspected,
    conditions: Conditions,
    step: inspection.Step,
    fields: Sequence[str],
    ready_message: Callable[[Inspected], str],
) -> Decision[Inspected]:
    """Write a step into the status: what was found, and Ready, Reconciling and Stalled."""
    if step.state:
        status["inspection"] = step.state
    match step.result:
        case inspection.Waiting(reason, message):
            conditions.waiting(reason, message)
        case inspection.Refused(reason, message, summary):
            _take_over(status, summary, fields)
            conditions.stalled(reason, message)
        case inspection.Found(summary):
            _take_over(status, summary, fields)
            conditions.ready(Reason.INSPECTED, ready_message(status))
    return Decision(step.actions, status, step.requeue_after)


def _take_over(status: Any, summary: Mapping[str, Any], fields: Sequence[str]) -> None:
    """What was found; the names of the fields are those of the kind's models."""
    status |= {key: summary[key] for key in fields if key in summary}
