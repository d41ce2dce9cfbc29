"""Evaluation: the numbered list of its states.

Each candidate goes its own way (``candidate``); once all have ended the verdict follows
(``result``), and nothing starts the Evaluation again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from kubetune.api.conditions import (
    TERMINAL_PHASES,
    CandidatePhase,
    ConditionType,
    Phase,
    Reason,
)
from kubetune.decide.decision import (
    Action,
    Decision,
    EvaluationDecision,
    FindEvaluation,
    Record,
    Stamp,
    StartRun,
    StopRuns,
    conditions_of,
    rfc3339,
    with_conditions,
)
from kubetune.decide.evaluation import deadline, deletion, result
from kubetune.decide.evaluation.candidate import (
    MOVING,
    CandidateDraft,
    settle,
    show_progress,
    summary_of,
    take_inputs,
)
from kubetune.decide.evaluation.draft import Draft, draft_of
from kubetune.decide.evaluation.inputs import (
    CandidateInputs,
    Shared,
    candidate_inputs,
    shared_inputs,
)
from kubetune.decide.evaluation.lookup import ask, bring_forward, lookup_refused
from kubetune.decide.evaluation.observed import ObservedEvaluation
from kubetune.decide.identity import with_finalizer
from kubetune.decide.limits import after_end
from kubetune.decide.retries import ELSEWHERE_SECONDS, NOT_WATCHED, until_secret
from kubetune.decide.strays import with_strays_stopped
from kubetune.decide.target.place import before_start, has_moved
from kubetune.decide.target.unreachable import target_unreachable, with_phase
from kubetune.decide.waited import halted
from kubetune.decide.waiting import NotReady
from kubetune.names import FINALIZER
from kubetune.targets.table import facts_of
from kubetune.targets.values import FINISHED


def decide(observed: ObservedEvaluation, now: datetime) -> EvaluationDecision:
    """What to do for an Evaluation."""
    decision = with_finalizer(observed, _decide(observed, now))
    runs = [(item.run_key, item.runs) for item in observed.candidates]
    return with_strays_stopped(decision, runs)


def _decide(observed: ObservedEvaluation, now: datetime) -> EvaluationDecision:
    evaluation = observed.evaluation

    # 1. Deleted: its runs go with it; or over: nothing starts it again.
    if evaluation.deleting:
        return deletion.delete(observed, now)
    if evaluation.status.get("phase") in TERMINAL_PHASES:
        return _over(observed, now)

    # 2. The spec can't be read.
    if evaluation.spec is None:
        conditions = conditions_of(evaluation.status, evaluation.generation, now)
        conditions.stalled(Reason.INVALID_SPEC, evaluation.problem)
        return Decision(status=with_conditions(evaluation.status, conditions))

    # 3. The target can't be asked: nothing is known, so nothing changes.
    if observed.target_problem:
        unknown = with_phase(target_unreachable(evaluation, observed.target_problem, now))
        if evaluation.spec.suspend and unknown.status is not None:
            return replace(unknown, status=halted(unknown.status, now))
        return unknown

    # 4. What became of the attempts.
    draft = draft_of(observed, evaluation.spec, now)
    for candidate in draft.candidates:
        if not candidate.settled and candidate.attempt:
            bring_forward(draft, candidate, candidate.attempt)

    show_progress(draft.candidates, observed.progress_seconds, now)

    # 5. Suspended, while something is left to measure.
    measured = all(candidate.settled for candidate in draft.candidates)
    if draft.spec.suspend and not measured:
        return _suspend(draft)

    # 6. The time of a run was over, and it left nothing.
    if deadline.ran_out(draft):
        return deadline.expire(draft)

    # 7. All have ended: the verdict. No clock takes it back.
    if measured:
        return result.finish(draft)

    # 8. The deadline: what runs is kept within it, and nothing more is started after it.
    deadline.keep(draft)
    if deadline.lacks_time(draft):
        return deadline.expire(draft)
    if deadline.lacks_queue_time(draft):
        return deadline.queue_no_longer(draft)

    # 9. Whatever can start starts, as many at once as allowed.
    return _start_more(draft)


def _over(observed: ObservedEvaluation, now: datetime) -> EvaluationDecision:
    """Nothing may be left running, and the time to live applies."""
    evaluation = observed.evaluation
    stop = tuple(
        StopRuns(item.run_key)
        for item in observed.candidates
        if any(run.phase not in FINISHED and run.phase != "stopping" for run in item.runs)
    )
    ttl = evaluation.spec.ttl_seconds_after_finished if evaluation.spec else None
    return after_end(evaluation, ttl, stop, now)


def _suspend(draft: Draft) -> EvaluationDecision:
    """Stop what runs; attempts that were stopped so count for nothing."""
    live = [candidate for candidate in draft.candidates if candidate.live]
    for candidate in draft.candidates:
        if not candidate.settled:
            phase = CandidatePhase.RUNNING if candidate.live else CandidatePhase.PENDING
            candidate.say(phase, Reason.SUSPENDED, "the Evaluation is suspended")
        if any(run.phase != "stopping" for run in candidate.live):
            draft.actions.append(StopRuns(draft.run_key(candidate)))
    message = "spec.suspend is true: nothing runs until it is false"
    if live:
        message = "the Evaluation is suspended: waiting for its runs to stop"
    draft.status["phase"] = Phase.STOPPING if live else Phase.SUSPENDED
    conditions = draft.conditions
    conditions.remove(ConditionType.RECONCILING)
    conditions.remove(ConditionType.STALLED)
    conditions.set(ConditionType.READY, False, Reason.SUSPENDED, message)
    return draft.decision()


def _start_more(draft: Draft) -> EvaluationDecision:
    if not any(
        item.started or item.status["phase"] != CandidatePhase.PENDING for item in draft.candidates
    ):
        # Nothing was measured or submitted, but maybe refused, and that freezes nothing.
        draft.status.pop("data", None)
    shared = shared_inputs(draft.observed)
    ready: list[tuple[CandidateDraft, CandidateInputs]] = []
    missing: list[NotReady] = []
    if isinstance(shared, NotReady):
        missing.append(shared)
        for candidate in (item for item in draft.candidates if item.due):
            candidate.say(CandidatePhase.PENDING, shared.reason, shared.message)
    else:
        ready = _startable(draft, shared, missing)
        if any(not item.started for item, _ in ready) and _changed(draft, shared):
            return result.fail(
                draft,
                Reason.DATASET_CHANGED,
                f"Dataset {shared.data.name}, a metric function or a task has changed since the"
                " first candidate started, so candidates can't be compared: make a new Evaluation",
            )
    refused = next((item for item in missing if item.refused), None)
    if refused is None:
        _start(draft, ready)
    if all(candidate.settled for candidate in draft.candidates):
        # What was measured before has come in.
        return result.finish(draft)
    due = [item for item in draft.candidates if item.due]
    draft.lacks_inputs = bool(due) and not any(item.live for item in draft.candidates)
    if deadline.lacks_waiting_time(draft):
        blocker = refused or next(iter(missing), None)
        return deadline.wait_no_longer(draft, blocker.message if blocker else due[0].message)
    _tell(draft, refused, missing)
    return draft.decision()


def _changed(draft: Draft, shared: Shared) -> bool:
    frozen = draft.status.get("data")
    return frozen is not None and frozen != shared.frozen


def _startable(
    draft: Draft, shared: Shared, missing: list[NotReady]
) -> list[tuple[CandidateDraft, CandidateInputs]]:
    """Candidates whose next attempt may begin; what the others lack goes to ``missing``."""
    found: list[tuple[CandidateDraft, CandidateInputs]] = []
    for candidate in (item for item in draft.candidates if item.due):
        inputs = candidate_inputs(draft.observed, candidate.observed, shared)
        if isinstance(inputs, NotReady):
            candidate.say(CandidatePhase.PENDING, inputs.reason, inputs.message)
            missing.append(inputs)
            continue
        found.append((candidate, inputs))
    return found


def _start(draft: Draft, ready: list[tuple[CandidateDraft, CandidateInputs]]) -> None:
    """Start attempts in the order of the spec, but nothing that was measured before."""
    observed, answers = draft.observed, draft.observed.answers
    live = [candidate for candidate in draft.candidates if candidate.live]
    busy = {candidate.digest: f"candidate {candidate.name}" for candidate in live}
    free = draft.spec.parallelism - len(live)
    if ready and _is_left_behind(draft):
        for candidate, _ in ready:
            message = "waiting for runs that were started before the compute target changed"
            candidate.say(CandidatePhase.PENDING, Reason.QUEUED, message)
        return
    if draft.left is not None and draft.left <= 0:
        free = 0
    starts: list[Action] = []
    for candidate, inputs in ready:
        digest = candidate.digest if candidate.started else inputs.plan.digest
        if not candidate.started:
            if other := busy.get(digest) or draft.observed.elsewhere.get(digest):
                message = f"waiting for {other}, which is measured with the same inputs"
                candidate.say(CandidatePhase.PENDING, Reason.SEEKING_EQUAL, message)
                draft.waits.append(ELSEWHERE_SECONDS)
                continue
            if free <= 0:
                message = f"waiting for its turn; spec.parallelism is {draft.spec.parallelism}"
                candidate.say(CandidatePhase.PENDING, Reason.QUEUED, message)
                continue
            if digest not in answers.found:
                if lookup_refused(draft, candidate):
                    continue
                error = answers.tracking_error
                message = error or "asking the tracking server for equal measurements"
                reason = answers.tracking_reason if error else Reason.SEEKING_EQUAL
                candidate.say(CandidatePhase.PENDING, reason, message)
                ask(draft, FindEvaluation(digest, digest))
                continue
            if doubt := answers.doubts.get(digest):
                said = f"candidate {candidate.name}: {doubt.message}"
                draft.conditions.set(ConditionType.REUSED, False, doubt.reason, said)
            take_inputs(candidate, inputs)
            draft.status.setdefault("data", inputs.frozen)
            summary = summary_of(candidate, answers.found[digest])
            if summary and summary.complete:
                draft.status.setdefault("startTime", rfc3339(draft.now))
                settle(candidate, summary, draft.spec.metrics, observed.place, reused=True)
                continue
        if free <= 0:
            continue
        free -= 1
        busy[digest] = f"candidate {candidate.name}"
        starts.append(_submit(draft, candidate, inputs))
    if starts:
        _settle_place(draft)
        draft.actions += starts


def _is_left_behind(draft: Draft) -> bool:
    """Whether runs are under way that were started elsewhere than new ones would be."""
    observed, target = draft.observed, draft.observed.target.spec
    if observed.started is None or target is None:
        return False
    if not has_moved(observed.started, target, observed.evaluation.owner.namespace):
        return False
    return any(
        candidate.live or (candidate.measured and not candidate.settled)
        for candidate in draft.candidates
    )


def _settle_place(draft: Draft) -> None:
    """Record where attempts will be and how they are found."""
    observed, status = draft.observed, draft.status
    target, owner = observed.target.spec, observed.evaluation.owner
    if facts_of(target).runs_outlive_owner and FINALIZER not in observed.evaluation.finalizers:
        # Its jobs must be gone before it is, also when no operator runs as it is deleted.
        draft.actions.append(Stamp(finalizer=True))
    ended = [item.observed.run_key for item in draft.candidates if item.observed.runs]
    status["target"] = observed.target.label
    status["external"], before = before_start(
        status.get("external") or {},
        observed.started,
        observed.target,
        owner.namespace,
        ended,
        observed.evaluation.status.get("phase"),
    )
    draft.actions += before
    # Runs are known by the digests.
    candidates = [item.status.copy() for item in draft.candidates]
    draft.actions.append(Record("candidates", candidates, known_by=("name", "digest")))


def _submit(draft: Draft, candidate: CandidateDraft, inputs: CandidateInputs) -> StartRun:
    draft.status.setdefault("startTime", rfc3339(draft.now))
    attempt = candidate.counts["total"] + 1
    request = inputs.request(draft.observed, draft.run_key(candidate), attempt, draft.left)
    message = f"attempt {attempt} is submitted to {draft.observed.target.label}"
    candidate.say(CandidatePhase.QUEUED, Reason.QUEUED, message)
    return StartRun(request)


def _tell(draft: Draft, refused: NotReady | None, missing: list[NotReady]) -> None:
    """Phase and conditions of an Evaluation that isn't over."""
    conditions = draft.conditions
    phases = [candidate.status["phase"] for candidate in draft.candidates]
    done, total = phases.count(CandidatePhase.SUCCEEDED), len(phases)
    blocker = refused or next(iter(missing), None)
    if blocker:
        conditions.set(ConditionType.INPUTS_READY, False, blocker.reason, blocker.message)
        if blocker.reason in NOT_WATCHED:
            draft.waits.append(until_secret(draft.observed.evaluation.waiting_since, draft.now))
    else:
        message = "all inputs are there and fit"
        conditions.set(ConditionType.INPUTS_READY, True, Reason.INPUTS_READY, message)
    said = f"{done} of {total} candidates are measured"
    moving = [candidate for candidate in draft.candidates if candidate.status["phase"] in MOVING]
    if moving:
        running = [item for item in moving if item.status["phase"] == CandidatePhase.RUNNING]
        draft.status["phase"] = Phase.RUNNING if running else Phase.QUEUED
        first = (running or moving)[0]
        message = f"{said}; {first.name}: {first.message}"
        reason = first.status.get("reason", Reason.QUEUED)
        if blocker:
            message += f"; {blocker.message}"
        conditions.waiting(reason, message)
        return
    if blocker:
        draft.status["phase"] = blocker.phase
        if blocker.refused:
            conditions.stalled(blocker.reason, blocker.message)
        else:
            conditions.waiting(blocker.reason, blocker.message)
        return
    waiting = next(item for item in draft.candidates if not item.settled)
    draft.status["phase"] = Phase.PREPARING
    message = f"{said}; {waiting.name}: {waiting.message}"
    conditions.waiting(waiting.status.get("reason", Reason.QUEUED), message)
