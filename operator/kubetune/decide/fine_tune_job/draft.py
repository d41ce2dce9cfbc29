"""The status of a FineTuneJob in the making."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kubetune.api.conditions import TERMINAL_PHASES, ConditionType, Phase
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.status_types import (
    AttemptCountsDict,
    AttemptDict,
    ExternalDict,
    FineTuneJobStatusDict,
    ResultDict,
)
from kubetune.decide.deadline import (
    Clock,
    look_again,
    read_clock,
    seen_running,
    spans,
)
from kubetune.decide.decision import (
    Action,
    Conditions,
    Decision,
    FineTuneJobDecision,
    conditions_of,
    copy_of,
    rfc3339,
    shorten,
)
from kubetune.decide.fine_tune_job.kept_steps import keeps_steps, show_checkpoint
from kubetune.decide.fine_tune_job.observed import (
    ObservedJob,
)
from kubetune.decide.fine_tune_job.orders import ended_by_deadline, told_to_stop
from kubetune.decide.fine_tune_job.progress import (
    kept_percent,
    merge_attempts,
    mlflow_link,
    progress,
    progress_due,
    tells_of,
    without_eta,
)
from kubetune.decide.memory.batch import Batch, next_batch, ran_out
from kubetune.decide.target.place import record
from kubetune.decide.waited import LOOK_SECONDS, Stopwatch, note, queue_clock, read
from kubetune.targets.table import facts_of
from kubetune.targets.values import FINISHED, RunState

UNSUBMITTED = frozenset({Phase.PENDING, Phase.PREPARING, Phase.QUEUED})
"""Phases of a job that waits; Queued while what was decided to start hasn't been seen yet."""


@dataclass
class Draft:
    """The status in the making, and the actions so far."""

    observed: ObservedJob
    spec: FineTuneJobSpec
    now: datetime
    status: FineTuneJobStatusDict
    attempts: list[AttemptDict]
    """Part of the status where there are any; the newest comes last."""
    counts: AttemptCountsDict
    """Part of the status."""
    conditions: Conditions
    clock: Clock
    """How long runs were under way; activeDeadlineSeconds is about that."""
    waiting: Stopwatch
    """How long it waited for what it needs; waitingDeadlineSeconds is about that."""
    queue: Stopwatch
    """How long runs waited to begin; queueDeadlineSeconds is about that."""
    waits: bool = False
    """Whether it waits now, so that the first of both goes on."""
    actions: list[Action] = field(default_factory=list[Action])

    @property
    def newest(self) -> AttemptDict | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def smaller_batch(self) -> Batch | None:
        """What the next attempt trains with instead, as the newest one ran out of memory."""
        newest, settings = self.newest, self.status.get("effective")
        if newest is None or not settings or not ran_out(newest):
            return None
        return next_batch(newest, settings)

    @property
    def result(self) -> ResultDict:
        """status.result, which stands in the status from now on."""
        return self.status.setdefault("result", {})

    @property
    def live(self) -> list[RunState]:
        """Runs that have not ended."""
        return [run for run in self.observed.runs if run.phase not in FINISHED]

    @property
    def left(self) -> float | None:
        """Seconds for which runs may still run; None without a deadline."""
        left, job = self.clock.left(self.spec.active_deadline_seconds), self.observed.job
        if left is None or not self.live or ended_by_deadline(job.status) != job.generation:
            return left
        # Since when the run goes on by our clock was told by the condition that now says this.
        return min(left, 0.0)

    @property
    def waited_out(self) -> bool:
        """Whether it may wait no longer for what it needs."""
        left = self.waiting.left(self.spec.waiting_deadline_seconds)
        return left is not None and left <= 0

    @property
    def queued_out(self) -> bool:
        """Whether no run of it may queue any longer."""
        left = self.queue.left(self.spec.queue_deadline_seconds)
        return left is not None and left <= 0

    def decision(self, requeue_after: float | None = None) -> FineTuneJobDecision:
        """The decision; a deadline or a time to live may ask to look again earlier."""
        self.status["conditions"] = self.conditions.current
        if "progress" in self.status and self.status.get("phase") != Phase.RUNNING:
            # Nothing comes nearer while nothing runs.
            self.status["progress"] = without_eta(self.status["progress"])
        if self.status.get("phase") in TERMINAL_PHASES:
            limit = self.spec.ttl_seconds_after_finished
        else:
            limit = look_again(self.left, self.clock, self.live)
        again = [run.look_again_seconds for run in self.live]
        given = (requeue_after, limit, self._stop_clocks(), *again)
        times = [seconds for seconds in given if seconds is not None]
        return Decision(tuple(self.actions), self.status, min(times) if times else None)

    def _stop_clocks(self) -> float | None:
        """Write both clocks of waiting down; seconds until the one that goes is over."""
        waits = self.waits and self.status.get("phase") in UNSUBMITTED
        self.waiting = self.waiting.going() if waits else self.waiting.stopped()
        note(self.status, self.waiting, self.queue)
        if self.queue.since and self.live:
            left = self.queue.left(self.spec.queue_deadline_seconds)
        elif waits:
            left = self.waiting.left(self.spec.waiting_deadline_seconds)
        else:
            return None
        return left if left is None or left > 0 else LOOK_SECONDS

    def phase(self, phase: Phase) -> None:
        """Set the phase."""
        self.status["phase"] = phase


def begin(observed: ObservedJob, spec: FineTuneJobSpec, now: datetime) -> Draft:
    """The status as it was, with what is seen of the runs."""
    job = observed.job
    old, status = job.status, copy_of(job.status)
    attempts, counts = merge_attempts(
        status.get("attempts") or [],
        status.get("counts"),
        observed.runs,
        stopped=spec.suspend or old.get("phase") == Phase.SUSPENDED or bool(told_to_stop(old)),
    )
    status.pop("conditions", None)
    status.pop("attempts", None)
    status |= {"observedGeneration": job.generation, "counts": counts}
    if attempts:
        status["attempts"] = attempts
        external: ExternalDict = status.get("external") or {}
        if observed.started is None and observed.target.spec:
            # Found by a run key that a backup has brought back.
            external |= record(observed.target, job.owner.namespace)
        newest = max(observed.runs, key=lambda run: run.attempt, default=None)
        status["external"] = external | newest.external if newest else external
    seen = seen_running(old, now) if facts_of(observed.place).own_clock else None
    found = spans(observed.runs, old.get("attempts") or (), now, not_before=seen)
    clock = read_clock(old.get("runTime"), found, now)
    if clock.counted:
        status["runTime"] = clock.counted
    conditions = conditions_of(old, job.generation, now)
    live = [] if spec.suspend else [run for run in observed.runs if run.phase not in FINISHED]
    draft = Draft(
        observed,
        spec,
        now,
        status,
        attempts,
        counts,
        conditions,
        clock,
        waiting=read(old.get("waitTime"), now),
        queue=queue_clock(old.get("queueTime"), observed.runs, live, now),
    )
    draft.conditions.remove(ConditionType.TARGET_AVAILABLE)
    run = observed.tracked
    if run is not None:
        if observed.place:
            status["mlflow"] = mlflow_link(run, observed.place)
        shown = progress(run, now)
        kept_percent(shown, old.get("progress"))
        due = progress_due(old.get("progress"), shown, run, now, observed.progress_seconds)
        # Once it has ended well, its final values are there already.
        due = due and old.get("phase") != Phase.REGISTERING
        if due and tells_of(run, attempts):
            status["progress"] = shown
            if observed.place and keeps_steps(status.get("effective") or {}, observed.place):
                show_checkpoint(status, run)
    return draft


def fail(
    draft: Draft, reason: str, message: str, *, retryable: bool = False
) -> FineTuneJobDecision:
    """End the job as failed."""
    draft.phase(Phase.FAILED)
    draft.status["failure"] = {
        "reason": reason,
        "message": shorten(message),
        "retryable": retryable,
    }
    draft.status["completionTime"] = rfc3339(draft.now)
    draft.conditions.set(ConditionType.RUNNING, False, reason, "no run is active")
    draft.conditions.set(ConditionType.FAILED, True, reason, message)
    draft.conditions.stalled(reason, message)
    return draft.decision()
