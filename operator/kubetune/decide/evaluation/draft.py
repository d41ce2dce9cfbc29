"""The status of an Evaluation in the making."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kubetune.api.conditions import TERMINAL_PHASES, ConditionType
from kubetune.api.kinds.evaluation.spec import EvaluationSpec
from kubetune.api.kinds.status_types import (
    AttemptDict,
    CandidateStatusDict,
    EvaluationStatusDict,
)
from kubetune.decide.deadline import Clock, read_clock, spans
from kubetune.decide.decision import (
    Action,
    Conditions,
    Decision,
    EvaluationDecision,
    conditions_of,
    copy_of,
    parse_time,
)
from kubetune.decide.evaluation.candidate import (
    CandidateDraft,
    begin,
    show_whole,
    with_deltas,
)
from kubetune.decide.evaluation.inputs import (
    candidate_run_key,
)
from kubetune.decide.evaluation.observed import ObservedEvaluation
from kubetune.decide.waited import LOOK_SECONDS, Stopwatch, note, queue_clock, read
from kubetune.targets.table import facts_of
from kubetune.targets.values import FINISHED


@dataclass
class Draft:
    """The status in the making, and the actions so far."""

    observed: ObservedEvaluation
    spec: EvaluationSpec
    now: datetime
    status: EvaluationStatusDict
    conditions: Conditions
    candidates: list[CandidateDraft]
    clock: Clock
    """How long runs were under way; activeDeadlineSeconds is about that."""
    waiting: Stopwatch
    """How long it waited for what it needs; waitingDeadlineSeconds is about that."""
    queue: Stopwatch
    """How long runs waited to begin; queueDeadlineSeconds is about that."""
    lacks_inputs: bool = False
    """Whether nothing is under way since something is missing: the first of both clocks goes on."""
    actions: list[Action] = field(default_factory=list[Action])
    waits: list[float] = field(default_factory=list[float])
    """Seconds until something must be looked at again."""

    @property
    def left(self) -> float | None:
        """Seconds for which runs may still run; None without a deadline."""
        return self.clock.left(self.spec.active_deadline_seconds)

    @property
    def waiting_left(self) -> float | None:
        """Seconds for which it may still wait for what it needs; None without a limit."""
        return self.waiting.left(self.spec.waiting_deadline_seconds)

    @property
    def queue_left(self) -> float | None:
        """Seconds for which runs may still queue; None without a limit."""
        return self.queue.left(self.spec.queue_deadline_seconds)

    def decision(self) -> EvaluationDecision:
        """The decision as it stands."""
        waits = self.lacks_inputs and self.status.get("phase") not in TERMINAL_PHASES
        self.waiting = self.waiting.going() if waits else self.waiting.stopped()
        note(self.status, self.waiting, self.queue)
        if waits and (left := self.waiting_left) is not None:
            self.waits.append(left if left > 0 else LOOK_SECONDS)
        statuses = [candidate.status for candidate in self.candidates]
        with_deltas(statuses)
        show_whole(self.status, self.candidates)
        self.status["candidates"] = statuses
        self.status["conditions"] = self.conditions.current
        return Decision(tuple(self.actions), self.status, min(self.waits, default=None))

    def run_key(self, candidate: CandidateDraft) -> str:
        """The run key of a candidate whose digest is known."""
        uid = self.observed.evaluation.owner.uid
        return candidate_run_key(self.observed.keys, uid, candidate.name, candidate.digest)


def draft_of(observed: ObservedEvaluation, spec: EvaluationSpec, now: datetime) -> Draft:
    """The status as it was, with what is seen of the runs."""
    evaluation = observed.evaluation
    old = copy_of(evaluation.status)
    known = {item["name"]: item for item in old.pop("candidates", None) or ()}
    conditions = conditions_of(old, evaluation.generation, now)
    conditions.remove(ConditionType.TARGET_AVAILABLE)
    own_clock = facts_of(observed.place).own_clock
    submitted = parse_time(old.get("startTime")) if own_clock else None
    found = [
        span
        for item in observed.candidates
        for span in spans(item.runs, _attempts_of(known.get(item.name)), now, not_before=submitted)
    ]
    clock = read_clock(old.get("runTime"), found, now)
    if clock.counted:
        old["runTime"] = clock.counted
    runs = [run for item in observed.candidates for run in item.runs]
    live = [] if spec.suspend else [run for run in runs if run.phase not in FINISHED]
    return Draft(
        observed=observed,
        spec=spec,
        now=now,
        status=old | {"observedGeneration": evaluation.generation},
        conditions=conditions,
        candidates=[
            begin(item, known.get(item.name), now, suspended=spec.suspend)
            for item in observed.candidates
        ],
        clock=clock,
        waiting=read(old.get("waitTime"), now),
        queue=queue_clock(old.get("queueTime"), runs, live, now),
    )


def _attempts_of(candidate: CandidateStatusDict | None) -> list[AttemptDict]:
    return [candidate["attempt"]] if candidate and "attempt" in candidate else []
