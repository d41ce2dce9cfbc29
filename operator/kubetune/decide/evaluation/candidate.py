"""One candidate of an Evaluation: its attempts, its results, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from kubetune.api.conditions import AttemptResult, CandidatePhase, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import (
    AttemptCountsDict,
    AttemptDict,
    CandidateProgressDict,
    CandidateStatusDict,
    EvaluationProgressDict,
    EvaluationStatusDict,
    MetricResultDict,
    RegisteredResultDict,
)
from kubetune.api.metrics.metric import BITS_PER_BYTE, PER_TOKEN
from kubetune.api.rows import loss_rows
from kubetune.api.run.evaluation_plan import (
    TAG_EVALUATION_SUMMARY,
    EvaluationSummary,
    MeasuredValue,
)
from kubetune.decide.deadline import TOLD
from kubetune.decide.decision import rfc3339, shorten
from kubetune.decide.evaluation.inputs import CandidateInputs
from kubetune.decide.evaluation.observed import ObservedCandidate
from kubetune.decide.fine_tune_job.progress import (
    kept_percent,
    merge_attempts,
    progress,
    progress_due,
    run_link,
)
from kubetune.decide.inspected.model import registered_version as job_version
from kubetune.decide.retries import Retry, after_attempt, retry_of
from kubetune.decide.waiting import evicted_too_often
from kubetune.targets.values import FINISHED, RunState
from kubetune.tracking.base import TrackedRun

MAX_CANDIDATE_MESSAGE = 512
_ALIKE = ("attempt", "stage", "done", "total", "unit", "percent", "etaSeconds", "eta")
"""Of a candidate's progress and a job's."""
MOVING = frozenset({CandidatePhase.RUNNING, CandidatePhase.QUEUED, CandidatePhase.RETRYING})
OURS = (Reason.SUSPENDED, Reason.QUEUED_TOO_LONG)
"""Reasons of a stop that we have ordered, and that is no failure of the attempt."""
SETTLED = frozenset({CandidatePhase.SUCCEEDED, CandidatePhase.FAILED})


@dataclass
class CandidateDraft:
    """A candidate's status in the making."""

    observed: ObservedCandidate
    status: CandidateStatusDict
    now: datetime
    resting: bool = False
    """Whether the pause before its next attempt isn't over."""
    sought: bool = False
    """Whether the tracking server is asked what the newest attempt has left."""

    @property
    def name(self) -> str:
        """Name of the candidate."""
        return self.observed.name

    @property
    def settled(self) -> bool:
        """Whether it has ended for good, either way."""
        return self.status["phase"] in SETTLED

    @property
    def live(self) -> list[RunState]:
        """Runs that have not ended."""
        return [run for run in self.observed.runs if run.phase not in FINISHED]

    @property
    def due(self) -> bool:
        """Whether it waits for nothing of its own before its next attempt."""
        return not (self.settled or self.live or self.resting or self.measured)

    @property
    def attempt(self) -> AttemptDict | None:
        """The newest attempt."""
        return self.status.get("attempt")

    @property
    def counts(self) -> AttemptCountsDict:
        """All attempts."""
        return self.status.get("counts") or {"total": 0, "failed": 0, "preempted": 0}

    @property
    def message(self) -> str:
        """Why it has its phase."""
        return self.status.get("message", "")

    @property
    def digest(self) -> str:
        """What is measured; empty before its inputs were taken."""
        return self.status.get("digest", "")

    @property
    def measured(self) -> bool:
        """Whether the newest attempt has ended well."""
        attempt = self.attempt
        return attempt is not None and attempt["result"] == AttemptResult.SUCCEEDED

    @property
    def started(self) -> bool:
        """Whether an attempt was made."""
        return bool(self.counts["total"])

    def unsure(self, attempt: AttemptDict, *, suspended: bool) -> bool:
        """Whether the newest attempt is over and was not seen to end with an outcome of its own."""
        run = next((run for run in self.observed.runs if run.attempt == attempt["number"]), None)
        if self.live or (run and run.outcome):
            return False
        if run and run.exit_code and attempt.get("reason") in TOLD:
            # Interrupted by the clock.
            return False
        if self.status.get("reason") == Reason.QUEUED_TOO_LONG and "startTime" not in attempt:
            # Taken back before it began.
            return False
        if attempt["result"] == AttemptResult.STOPPED:
            # By somebody else, which is final; or on our order, which matters when it goes on.
            return not attempt.get("reason") and not suspended
        return attempt["result"] in (AttemptResult.FAILED, AttemptResult.PREEMPTED)

    def say(self, phase: CandidatePhase, reason: Reason | str, message: str) -> None:
        """Set phase, reason and message."""
        say(self.status, phase, reason, message)


def say(
    status: CandidateStatusDict, phase: CandidatePhase, reason: Reason | str, message: str
) -> None:
    """Set phase, reason and message of a candidate's status."""
    status["phase"] = phase
    status["reason"] = reason
    status["message"] = shorten(message, MAX_CANDIDATE_MESSAGE)


def begin(
    observed: ObservedCandidate,
    old: CandidateStatusDict | None,
    now: datetime,
    *,
    suspended: bool = False,
) -> CandidateDraft:
    """The candidate after what the target shows; ``old`` is its part of the status."""
    status: CandidateStatusDict = old or {"name": observed.name, "phase": CandidatePhase.PENDING}
    draft = CandidateDraft(observed, status, now)
    if draft.settled or not (draft.attempt or observed.runs):
        return draft
    # Who ordered a stop must be known when it has happened, maybe after the suspension.
    ordered = suspended or status.get("reason") in OURS
    known = [draft.attempt] if draft.attempt else []
    attempts, counts = merge_attempts(known, status.get("counts"), observed.runs, stopped=ordered)
    if attempts:
        draft.status["attempt"] = attempts[-1]
    draft.status["counts"] = counts
    return draft


def follow(
    draft: CandidateDraft, newest: AttemptDict, backoff_limit: int, retry_seconds: float
) -> float | None:
    """Say how the newest attempt stands; seconds until the next one, when there is to be one.

    ``retry_seconds`` is the first pause.
    """
    number = newest["number"]
    if draft.live:
        _follow_live(draft, draft.live[-1])
        return None
    if draft.measured:
        return None
    run = next((run for run in draft.observed.runs if run.attempt == number), None)
    reason = newest.get("reason") or Reason.RUN_FAILED
    message = f"attempt {number}: {newest.get('message') or reason}"
    if newest["result"] == AttemptResult.STOPPED and newest.get("reason"):
        draft.say(CandidatePhase.FAILED, reason, message)
        return None
    if newest["result"] == AttemptResult.STOPPED:
        if draft.status.get("reason") != Reason.QUEUED_TOO_LONG:
            said = f"attempt {number} was stopped by suspend"
            draft.say(CandidatePhase.PENDING, Reason.SUSPENDED, said)
        return None
    outcome = run.outcome if run else None
    if newest["result"] == AttemptResult.FAILED and retry_of(reason, outcome) == Retry.NEVER:
        draft.say(CandidatePhase.FAILED, reason, message)
        return None
    failed = draft.counts["failed"]
    if failed > backoff_limit:
        note = f" ({failed} failed attempts, spec.backoffLimit is {backoff_limit})"
        draft.say(
            CandidatePhase.FAILED,
            reason,
            shorten(message, MAX_CANDIDATE_MESSAGE - len(note)) + note,
        )
        return None
    if problem := evicted_too_often(newest, draft.counts):
        draft.say(CandidatePhase.FAILED, Reason.DISRUPTED, problem)
        return None
    newest.setdefault("endTime", rfc3339(draft.now))
    wait = after_attempt(newest, draft.counts, retry_seconds, draft.now)
    draft.say(CandidatePhase.RETRYING, Reason.RETRYING, f"{message}; the next one follows")
    draft.resting = wait > 0
    return wait


def show_progress(
    candidates: Sequence[CandidateDraft], at_least_seconds: float, now: datetime
) -> None:
    """Progress of those that are measured now.

    One write shows that of all, so the newest counts for whether another one is due.
    """
    for item in candidates:
        if not item.live:
            item.status.pop("progress", None)
    shown = [item.status["progress"] for item in candidates if "progress" in item.status]
    newest = max((value.get("updatedAt", "") for value in shown), default=None)
    moving = [
        (item, item.observed.tracked, rows_done(item.observed.tracked, now))
        for item in candidates
        if item.live and item.observed.tracked is not None
    ]

    def due(item: CandidateDraft, run: TrackedRun, new: CandidateProgressDict) -> bool:
        old = item.status.get("progress") or {}
        written = old | {"updatedAt": newest} if newest is not None else None
        return progress_due(written, new, run, now, at_least_seconds)

    for item, _, new in moving:
        kept_percent(new, item.status.get("progress"))
    if any(due(*each) for each in moving):
        for item, _, new in moving:
            item.status["progress"] = new


def rows_done(run: TrackedRun, now: datetime) -> CandidateProgressDict:
    """A candidate's progress from the newest metrics of its run, which counts rows as steps."""
    given = progress(run, now)
    shown: CandidateProgressDict = {"updatedAt": rfc3339(now)}
    if "step" in given:
        shown["rows"] = given["step"]
    if "totalSteps" in given:
        shown["totalRows"] = given["totalSteps"]
    known: dict[str, Any] = {**given}
    same: Any = {name: known[name] for name in _ALIKE if name in known}
    return shown | same


def show_whole(status: EvaluationStatusDict, candidates: Sequence[CandidateDraft]) -> None:
    """Progress of all candidates together; none before the first one was started."""
    if not any(item.settled or item.started or item.live for item in candidates):
        return
    shares = [
        100 if item.settled else (item.status.get("progress") or {}).get("percent", 0)
        for item in candidates
    ]
    whole: EvaluationProgressDict = {"percent": sum(shares) // max(1, len(shares))}
    for item in candidates:
        shown = item.status.get("progress")
        if shown is not None:
            whole["candidate"] = item.name
            if "stage" in shown:
                whole["stage"] = shown["stage"]
            if "eta" in shown:
                whole["eta"] = shown["eta"]
            break
    status["progress"] = whole


def summary_of(draft: CandidateDraft, tracked: TrackedRun | None) -> EvaluationSummary | None:
    """Results from the run's outcome, else from its tag."""
    newest = draft.attempt["number"] if draft.attempt else None
    for run in draft.observed.runs:
        if run.attempt == newest and run.outcome and run.outcome.status == "succeeded":
            try:
                return EvaluationSummary.model_validate(run.outcome.summary, extra="ignore")
            except ValidationError:
                break
    return EvaluationSummary.of_tag(tracked.tags.get(TAG_EVALUATION_SUMMARY) if tracked else None)


def settle(
    draft: CandidateDraft,
    summary: EvaluationSummary,
    metrics: Sequence[str],
    target: ComputeTargetSpec | None,
    *,
    reused: bool,
) -> None:
    """The candidate is measured: take its results over."""
    status = draft.status
    if reused:
        status["reused"] = True
    beside = [BITS_PER_BYTE] if BITS_PER_BYTE in summary.metrics.keys() - set(metrics) else []
    found = "measured before with the same inputs" if reused else "measured"
    measured, among = summary.loss_rows, summary.split_rows
    if measured and among and measured < among:
        found += f"; {loss_rows(measured, among, 'rows')}"
    draft.say(CandidatePhase.SUCCEEDED, Reason.REUSED if reused else Reason.EVALUATED, found)
    if target:
        status["mlflow"] = run_link(summary.experiment_id, summary.run_id, target)
    status |= {
        "rows": summary.rows,
        "rowsDigest": summary.rows_digest,
        "skipped": summary.skipped,
        "samples": summary.samples_artifact is not None,
        "metrics": [_result(name, summary.metrics.get(name)) for name in (*metrics, *beside)],
    }
    if summary.tokens:
        status["tokens"] = summary.tokens
    if summary.loss_rows:
        status["lossRows"] = summary.loss_rows


def registered_version(candidate: ObservedCandidate) -> RegisteredResultDict | None:
    """The registered version that the candidate is, when it is one."""
    model = candidate.model
    source = model.spec.source if model and model.spec else None
    if model is None or source is None:
        return None
    if source.registry:
        version = str(source.registry.version or model.status.get("revision") or "")
        if not version.isdigit():
            return None
        return {"name": source.registry.name, "version": int(version)}
    return job_version(model, candidate.job) if source.fine_tune_job else None


def take_inputs(draft: CandidateDraft, inputs: CandidateInputs) -> None:
    """Keep what is frozen with the first attempt."""
    draft.status["digest"] = inputs.plan.digest
    if inputs.chat_template:
        draft.status["chatTemplate"] = inputs.chat_template
    if version := registered_version(draft.observed):
        draft.status["registered"] = version


def with_deltas(candidates: Sequence[CandidateStatusDict]) -> None:
    """Add the differences to the first candidate, as far as both have a value."""
    first = {
        item["name"]: item["value"]
        for item in (candidates[0].get("metrics") if candidates else None) or ()
        if "value" in item
    }
    for candidate in candidates[1:]:
        other_tokens = candidate.get("tokens") != candidates[0].get("tokens")
        for item in candidate.get("metrics") or ():
            if other_tokens and item["name"] in PER_TOKEN:
                continue
            if "value" in item and item["name"] in first:
                item["delta"] = f"{float(item['value']) - float(first[item['name']]):+.4g}"


def _follow_live(draft: CandidateDraft, run: RunState) -> None:
    number = run.attempt
    if run.phase == "running":
        draft.say(
            CandidatePhase.RUNNING, run.reason or Reason.STARTED, f"attempt {number} is running"
        )
    elif run.phase == "stopping":
        ordered = draft.status.get("reason", Reason.STOPPING)
        why = ordered if ordered in OURS else Reason.STOPPING
        draft.say(CandidatePhase.RUNNING, why, run.message or f"attempt {number} is being stopped")
    else:
        message = run.message or f"attempt {number} waits to be started"
        draft.say(CandidatePhase.QUEUED, run.reason or Reason.QUEUED, message)


def _result(name: str, measured: MeasuredValue | None) -> MetricResultDict:
    if measured is None:
        return {"name": name, "error": "the run left no message"}
    result: MetricResultDict = {"name": name}
    if measured.value is not None:
        result["value"] = f"{measured.value:.6g}"
    if measured.low is not None:
        result["low"] = f"{measured.low:.6g}"
    if measured.high is not None:
        result["high"] = f"{measured.high:.6g}"
    if measured.error:
        result["error"] = measured.error
    return result
