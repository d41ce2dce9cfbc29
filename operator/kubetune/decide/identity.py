"""What ties an object to its runs: recorded in status, and restored where a user removes it.

A PUT of an object, as of ``kubectl replace``, takes annotations and finalizers with it, but not
the status.
"""

from __future__ import annotations

from dataclasses import replace

from kubetune.api.conditions import TERMINAL_PHASES
from kubetune.decide.decision import (
    EvaluationDecision,
    FineTuneJobDecision,
    ModelDecision,
    Stamp,
    TieToJob,
)
from kubetune.decide.evaluation.observed import ObservedEvaluation
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.resources import ModelResource
from kubetune.names import FINALIZER, JOB
from kubetune.targets.table import facts_of
from kubetune.targets.values import FINISHED


def with_identity(observed: ObservedJob, decision: FineTuneJobDecision) -> FineTuneJobDecision:
    """The decision, with the run key and the finalizer restored first where they are missing."""
    job = observed.job
    if observed.fresh or job.deleting:
        return decision
    status = decision.status if decision.status is not None else job.status
    if status.get("phase") in TERMINAL_PHASES:
        return _guarded(observed, decision)
    if any(isinstance(action, Stamp) for action in decision.actions):
        return decision
    if observed.recorded and observed.stamped:
        return decision
    stamp = Stamp(finalizer=True, run_key=observed.run_key)
    status = status | {"runKey": observed.run_key}
    return replace(decision, actions=(stamp, *decision.actions), status=status)


def with_finalizer(
    observed: ObservedEvaluation, decision: EvaluationDecision
) -> EvaluationDecision:
    """The decision for an Evaluation, with the finalizer restored while its runs need it."""
    evaluation = observed.evaluation
    if evaluation.deleting or FINALIZER in evaluation.finalizers:
        return decision
    outlives = facts_of(observed.place).runs_outlive_owner
    if not outlives or not any(item.runs for item in observed.candidates):
        return decision
    if any(isinstance(action, Stamp) for action in decision.actions):
        return decision
    return replace(decision, actions=(Stamp(finalizer=True), *decision.actions))


def with_maker(model: ModelResource, decision: ModelDecision) -> ModelDecision:
    """The decision for a Model, which stays tied to the job that it is the output of."""
    told, known = model.annotations.get(JOB), model.status.get("madeBy")
    maker = known or told
    if maker is None or model.deleting:
        return decision
    status = decision.status
    if status is not None or known is None:
        status = (model.status if status is None else status) | {"madeBy": maker}
    tie = () if told == maker else (TieToJob(maker),)
    return replace(decision, actions=(*tie, *decision.actions), status=status)


def _guarded(observed: ObservedJob, decision: FineTuneJobDecision) -> FineTuneJobDecision:
    """Over: the finalizer is needed while there is something that it must not leave behind."""
    left = any(run.phase not in FINISHED for run in observed.runs)
    if FINALIZER in observed.job.finalizers or not (
        left or (observed.outlives_owner and observed.runs)
    ):
        return decision
    return replace(decision, actions=(Stamp(finalizer=True), *decision.actions))
