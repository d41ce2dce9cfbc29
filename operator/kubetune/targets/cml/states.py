"""Reads the state of an attempt from a job run of CML.

Pure functions. A run has a status and times, but no exit code and no message: those come from
the outcome that the runner left, else from the usage row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kubetune.api.conditions import Reason
from kubetune.api.kinds.status_types import ExternalDict
from kubetune.api.run import plan
from kubetune.api.run.outcome import Outcome
from kubetune.clients.cml_models import Job, JobRun, UsageResponse, variables
from kubetune.targets.sentences import out_of_memory, short
from kubetune.targets.values import KILLED_EXIT_CODE, RunPhase, RunState

_PREFIX = "ENGINE_"
_SKIPPED = "SKIPPED"
_ATTEMPT = re.compile("[0-9]{1,9}")
_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED", "TIMEDOUT"})
_UNBEGUN = frozenset({"SCHEDULING", "STARTING"})
_LIVE = frozenset({"SCHEDULING", "STARTING", "RUNNING", "STOPPING"})


@dataclass(frozen=True)
class Limits:
    """How long a run may stay in doubt."""

    scheduling: timedelta
    unknown: timedelta


@dataclass(frozen=True)
class Ending:
    """What an ended run left."""

    outcome: Outcome | None = None
    usage: UsageResponse | None = None


def status_word(run: JobRun) -> str:
    """The status in one spelling: upper case, without the prefix that only newer APIs have."""
    return run.status.strip().upper().removeprefix(_PREFIX)


def is_active(run: JobRun) -> bool:
    """Whether a run must be looked at again. A status that nobody knows is no end."""
    word = status_word(run)
    return word not in _ENDED and word != _SKIPPED


def is_live(run: JobRun) -> bool:
    """Whether a run is known to use resources, so that CML starts no other of its job."""
    return status_word(run) in _LIVE


def is_unbegun(run: JobRun) -> bool:
    """Whether a run waits for room, or for its engine."""
    return status_word(run) in _UNBEGUN


def has_ended(run: JobRun) -> bool:
    """Whether a run has ended and may have left something."""
    return status_word(run) in _ENDED


def numbered(runs: Sequence[JobRun]) -> dict[int, JobRun]:
    """Runs by attempt, oldest first; runs that CML skipped never were.

    The attempt stands in the run's environment; a run without it was started by hand and takes
    the next number.
    """
    found: dict[int, JobRun] = {}
    rest: list[JobRun] = []
    for run in sorted(runs, key=_age):
        if status_word(run) == _SKIPPED:
            continue
        text = variables(run.environment).get(plan.ENV_ATTEMPT, "")
        if _ATTEMPT.fullmatch(text) and int(text) not in found:
            found[int(text)] = run
        else:
            rest.append(run)
    for run in rest:
        found[max(found, default=0) + 1] = run
    return dict(sorted(found.items()))


def run_state(
    attempt: int,
    run: JobRun,
    external: ExternalDict,
    now: datetime,
    limits: Limits,
    *,
    ending: Ending | None = None,
    unknown_since: datetime | None = None,
    given_up: bool = False,
    unexplained: bool = False,
    ordered: bool = False,
) -> RunState:
    """The attempt's state; ``ending`` is what an ended run left.

    ``given_up``: it was overdue before, and so it was us who had it stopped. ``unexplained``: why
    it failed may become known yet, and its verdict depends on that. ``ordered``: that it stops was
    our order, whatever for.
    """
    if unexplained:
        return RunState(
            attempt=attempt,
            name=run.id,
            phase="running",
            started_at=run.running_at or run.starting_at,
            reason=str(Reason.ENDING),
            message="The run has ended; CML is asked once more why.",
            external={**external, "runId": run.id},
        )
    phase, reason, message, overdue = _phase(run, now, limits, unknown_since, given_up)
    left = ending or Ending()
    outcome = left.outcome if phase in ("succeeded", "failed", "preempted", "stopped") else None
    if phase in ("failed", "stopped") and outcome and outcome.status == "succeeded":
        # It had done its work when its time was over, or when somebody stopped it.
        phase, reason, message = "succeeded", outcome.reason, outcome.message
    if phase == "stopped" and ordered:
        reason, message = "", ""
    if phase == "failed":
        if outcome and outcome.status == "interrupted":
            phase = "preempted"
        reason, message = _failure(reason, message, left)
    return RunState(
        attempt=attempt,
        name=run.id,
        phase=phase,
        started_at=run.running_at or run.starting_at,
        ended_at=run.finished_at,
        outcome=outcome,
        # The API reports no exit code; only a script that ends by itself succeeds.
        exit_code=0 if phase == "succeeded" else _exit_code(left.usage),
        reason=str(reason),
        message=message,
        overdue=overdue,
        external={**external, "runId": run.id},
    )


def usage_row(
    job: Job, run: JobRun, runs: Sequence[JobRun], rows: Sequence[UsageResponse]
) -> UsageResponse | None:
    """The row of a run in the list of workloads: by its id, else by its job's name and its time.

    A row without the run's id belongs to the run of the job that was made nearest to it.
    """
    for row in rows:
        if row.id == run.id:
            return row
    others = {other.id for other in runs}
    named = [row for row in rows if row.name == job.name and row.id not in others]

    def distance(row: UsageResponse, made: JobRun) -> float:
        if row.created_at is None or made.created_at is None:
            return float("inf")
        return abs((row.created_at - made.created_at).total_seconds())

    mine = [
        row for row in named if all(distance(row, run) <= distance(row, other) for other in runs)
    ]
    return min(mine, key=lambda row: distance(row, run), default=None)


def _phase(
    run: JobRun, now: datetime, limits: Limits, unknown_since: datetime | None, given_up: bool
) -> tuple[RunPhase, str, str, bool]:
    match status_word(run):
        case "SCHEDULING":
            return _scheduling(run, now, limits)
        case "STARTING":
            return "pending", Reason.POD_PENDING, "CML starts the run's engine.", False
        case "RUNNING":
            return "running", Reason.STARTED, "The run is under way.", False
        case "STOPPING":
            return "stopping", Reason.STOPPING, "The run is being stopped.", False
        case "SUCCEEDED":
            return "succeeded", "", "", False
        case "STOPPED":
            # The workspace's clock and ours differ: what was seen counts more than its times.
            if given_up or _waited(run, run.finished_at or now) >= limits.scheduling:
                return "failed", Reason.SCHEDULING_TIMED_OUT, _no_room(limits), False
            return "stopped", Reason.STOPPED_BY_HAND, "The run was stopped in CML.", False
        case "TIMEDOUT":
            return "failed", Reason.TIMED_OUT, "CML ended the run at the job's timeout.", False
        case "FAILED":
            return "failed", Reason.RUN_FAILED, "", False
        case word:
            return _unknown(word, now, limits, unknown_since)


def _scheduling(run: JobRun, now: datetime, limits: Limits) -> tuple[RunPhase, str, str, bool]:
    if _waited(run, now) >= limits.scheduling:
        return "pending", Reason.SCHEDULING_TIMED_OUT, _no_room(limits), True
    text = "The run waits for CPUs, memory or GPUs of the workspace."
    return "pending", Reason.QUEUED, text, False


def _unknown(
    word: str, now: datetime, limits: Limits, since: datetime | None
) -> tuple[RunPhase, str, str, bool]:
    named = f"CML says {short(word) or 'nothing'} about the run"
    if since is not None and now - since >= limits.unknown:
        minutes = int(limits.unknown.total_seconds() // 60)
        text = f"{named} for more than {minutes} minutes; it counts as lost"
        return "failed", Reason.RUN_LOST, text, False
    return "running", Reason.STATUS_UNKNOWN, f"{named}; it is looked at again.", False


def _failure(reason: str, message: str, left: Ending) -> tuple[str, str]:
    """Reason and sentence of a failed run: its own words, else those of the usage row."""
    if left.outcome:
        return left.outcome.reason, left.outcome.message
    usage = left.usage or UsageResponse()
    details = usage.k8s_info
    if usage.oom_killed or details.k8s_reason == "OOMKilled":
        return Reason.OUT_OF_MEMORY, out_of_memory("run")
    said = usage.message or details.k8s_message or details.k8s_reason
    code = _exit_code(usage)
    if said or code:
        how = f" with exit code {code}" if code else ""
        return reason, short(f"The run ended{how}: {said or 'CML gives no reason'}")
    return reason, message or "The run failed and left no reason; see its log in CML."


def _exit_code(usage: UsageResponse | None) -> int | None:
    if usage is None:
        return None
    killed = usage.oom_killed or usage.k8s_info.k8s_reason == "OOMKilled"
    return usage.k8s_info.k8s_exit_code or (KILLED_EXIT_CODE if killed else None)


def _waited(run: JobRun, until: datetime) -> timedelta:
    """How long a run has waited for capacity; nothing once it had it."""
    since = run.scheduling_at or run.created_at
    if since is None or run.starting_at or run.running_at:
        return timedelta(0)
    return until - since


def _no_room(limits: Limits) -> str:
    seconds = int(limits.scheduling.total_seconds())
    return (
        f"The workspace had no room for the run within spec.cml.schedulingTimeoutSeconds, {seconds}"
        " s: ask for less, or for another gpuLabel."
    )


def _age(run: JobRun) -> tuple[str, str]:
    return run.created_at.isoformat() if run.created_at else "", run.id
