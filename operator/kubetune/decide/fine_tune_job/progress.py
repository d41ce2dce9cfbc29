"""Progress, attempts and results of a FineTuneJob as its status shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.bounded import NOTE, float_of, json_value
from kubetune.api.conditions import AttemptResult, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.fine_tune_job.status import RowCounts
from kubetune.api.kinds.running import MAX_ATTEMPTS
from kubetune.api.kinds.status_types import (
    AttemptCountsDict,
    AttemptDict,
    CandidateProgressDict,
    MlflowRunDict,
    ProgressDict,
    ResultRowsDict,
    RowCountsDict,
)
from kubetune.api.run.plan import (
    METRIC_ETA,
    METRIC_STEP,
    METRIC_TOKENS_PER_SECOND,
    TAG_ATTEMPT,
    TAG_METRICS,
    TAG_PHASE,
    TAG_PROGRESS,
    TAG_TOTAL_STEPS,
)
from kubetune.api.run.stages import (
    MOST,
    STAGES,
    TOLD_DONE,
    TOLD_ETA,
    TOLD_PERCENT,
    TOLD_STAGE,
    TOLD_TOTAL,
    TOLD_UNIT,
    UNITS,
)
from kubetune.api.training.objectives import LOGGED_NAMES
from kubetune.decide.decision import parse_time, rfc3339, shorten
from kubetune.targets.values import FINISHED, RunState
from kubetune.tracking.base import TrackedRun
from kubetune.tracking.facts import tracker_facts

MAX_METRICS = 64
MAX_COUNT = 10**18
"""Of bytes, rows and the like."""
MAX_ETA = 10 * 365 * 24 * 3600
MAX_STAGE = 64
# Metrics of the trainer's bookkeeping rather than of the result.
RESULTS = {
    "succeeded": AttemptResult.SUCCEEDED,
    "failed": AttemptResult.FAILED,
    "preempted": AttemptResult.PREEMPTED,
    "stopped": AttemptResult.STOPPED,
}
_NOT_RESULTS = (METRIC_STEP, METRIC_ETA)


def progress(run: TrackedRun, now: datetime) -> ProgressDict:
    """status.progress from what a run's newest attempt says of itself."""
    told = told_values(run)
    metrics = _numbers(told)
    value: ProgressDict = {"updatedAt": rfc3339(now)}
    if (attempt := _integer(metrics.get("attempt"))) is not None:
        value["attempt"] = attempt
    if (stage := run.tags.get(TAG_PHASE)) is not None:
        value["stage"] = shorten(stage, MAX_STAGE)
    step, total = _integer(metrics.get(METRIC_STEP)), _integer_text(run.tags.get(TAG_TOTAL_STEPS))
    if step is not None:
        value["step"] = step
    if total is not None:
        value["totalSteps"] = total
    if (percent := _count(metrics.get(TOLD_PERCENT), MOST)) is not None:
        value["percent"] = percent
    elif step is not None and total:
        # A runner of an earlier version, or code of the user's own that has written the tag.
        value["percent"] = max(0, min(MOST, step * 100 // total))
    if (epoch := metrics.get("epoch")) is not None:
        value["epoch"] = round(epoch, 3)
    if (loss := number(metrics.get("loss"))) is not None:
        value["loss"] = loss
    if (held_out := number(metrics.get("eval_loss"))) is not None:
        value["evalLoss"] = held_out
    if (rate := number(metrics.get("learning_rate"))) is not None:
        value["learningRate"] = rate
    if (tokens := metrics.get(METRIC_TOKENS_PER_SECOND)) is not None:
        value["tokensPerSecond"] = round(tokens, 1)
    _tell_stage(value, told, metrics)
    return value


def _tell_stage(value: ProgressDict, told: JsonObject, metrics: Mapping[str, float]) -> None:
    """What the run says of its stage, as far as it can be: of known names, in whole numbers."""
    seconds = metrics.get(METRIC_ETA)
    stage, unit = told.get(TOLD_STAGE), told.get(TOLD_UNIT)
    if stage in STAGES:
        value["stage"] = stage
        seconds = metrics.get(TOLD_ETA)
        done, total = (_count(metrics.get(name)) for name in (TOLD_DONE, TOLD_TOTAL))
        if unit in UNITS and done is not None:
            value |= {"done": done, "unit": unit}
            if total is not None and total >= done:
                value["total"] = total
    if (eta := _count(seconds, MAX_ETA)) is not None:
        value |= {"etaSeconds": eta, "eta": duration(eta)}


def kept_percent(
    new: ProgressDict | CandidateProgressDict, old: ProgressDict | CandidateProgressDict | None
) -> None:
    """Let percent not go back within an attempt, whatever its run says."""
    if not old or new.get("attempt") != old.get("attempt"):
        return
    before = old.get("percent")
    if before is not None and before <= MOST:
        new["percent"] = max(before, new.get("percent", 0))


def told_progress(run: TrackedRun) -> dict[str, float]:
    """Numbers that belong to one step of the newest attempt; none before it has any."""
    return _numbers(told_values(run))


def told_values(run: TrackedRun) -> JsonObject:
    """What the newest attempt says of itself in one moment; nothing before it has said anything.

    The tracking server's newest metrics don't: after a step back, as without checkpoints, they
    are those of the higher step until it is passed.
    """
    try:
        told: Any = json_value(run.tags.get(TAG_PROGRESS, ""), NOTE)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    given: JsonObject = told
    if str(given.get("attempt")) != run.tags.get(TAG_ATTEMPT):
        return {}
    return given


def _numbers(told: JsonObject) -> dict[str, float]:
    numbers = {key: float_of(value) for key, value in told.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def tells_of(run: TrackedRun, attempts: Sequence[AttemptDict]) -> bool:
    """Whether the newest attempt has reported; before that the run is as the last one left it."""
    reported = _integer_text(run.tags.get(TAG_ATTEMPT))
    return reported is None or not attempts or reported >= attempts[-1]["number"]


def progress_due(
    old: ProgressDict | CandidateProgressDict | None,
    new: ProgressDict | CandidateProgressDict,
    run: TrackedRun,
    now: datetime,
    at_least_seconds: float,
) -> bool:
    """Whether new progress of a run is worth a write: it is news, and the last write old enough."""
    updated = parse_time(old.get("updatedAt")) if old else None
    if old is None or updated is None:
        return True
    # A metric that was reported again with the same value is news too: the run is alive.
    fresh = run.updated_ms > updated.timestamp() * 1000
    changed = {**new, "updatedAt": ""} != {**old, "updatedAt": ""}
    return (fresh or changed) and (now - updated).total_seconds() >= at_least_seconds


def without_eta(shown: ProgressDict) -> ProgressDict:
    """The same of a run that nothing is left to wait for."""
    kept = shown.copy()
    kept.pop("etaSeconds", None)
    kept.pop("eta", None)
    return kept


def finished_progress(
    old: ProgressDict | None, summary: JsonObject, metrics: JsonObject, now: datetime
) -> ProgressDict | None:
    """Progress once training is over: no time left to wait for.

    ``summary`` is what the run says at its end; polls may not have seen its last steps, or any.
    So all that is of one step is that of the last one, and no stage is left.
    """
    steps = summary.get("steps")
    if not old and not isinstance(steps, int):
        return None
    kept = without_eta(old or {})
    for name in ("stage", "done", "total", "unit"):
        kept.pop(name, None)
    # The mean is of code that tells no loss of its last step.
    loss = number(summary.get("loss")) or kept.get("loss") or number(metrics.get("train_loss"))
    if loss is not None:
        kept["loss"] = loss
    if (held_out := number(metrics.get("eval_loss"))) is not None:
        kept["evalLoss"] = held_out
    if (rate := number(summary.get("learningRate"))) is not None:
        kept["learningRate"] = rate
    if isinstance(epoch := summary.get("epoch"), int | float):
        kept["epoch"] = round(float(epoch), 3)
    kept.setdefault("updatedAt", rfc3339(now))
    if isinstance(steps, int):
        # A script may say less than it meant to do, but what has ended well is done.
        kept |= {"step": steps, "percent": 100}
        kept.setdefault("totalSteps", steps)
    return kept


def merge_attempts(
    known: Sequence[AttemptDict],
    counted: AttemptCountsDict | None,
    runs: Sequence[RunState],
    *,
    stopped: bool,
) -> tuple[list[AttemptDict], AttemptCountsDict]:
    """status.attempts and status.counts after what the target shows.

    An attempt that the status knows as running and the target no longer knows is lost:
    stopped on our order (``stopped``), else failed.
    """
    attempts = {attempt["number"]: attempt.copy() for attempt in known}
    counts: AttemptCountsDict = {"total": 0, "failed": 0, "preempted": 0}
    if counted:
        counts |= counted
    for run in runs:
        before = attempts.get(run.attempt)
        if before and before["result"] != AttemptResult.RUNNING:
            continue
        if before is None and run.attempt <= counts["total"]:
            # Counted long ago, and no longer among the newest.
            continue
        attempts[run.attempt] = _attempt(run, before)
        if stopped and run.phase == "stopped":
            # On our order: no reason of anybody else's.
            attempts[run.attempt].pop("reason", None)
            attempts[run.attempt].pop("message", None)
    seen = {run.attempt for run in runs}
    for number_, attempt in attempts.items():
        if attempt["result"] != AttemptResult.RUNNING or number_ in seen:
            continue
        if stopped:
            attempt["result"] = AttemptResult.STOPPED
        else:
            attempt |= {
                "result": AttemptResult.FAILED,
                "reason": Reason.RUN_LOST,
                "message": f"{attempt['job']} was deleted while it ran",
            }
    _count_ends(known, attempts, counts)
    newest = [attempts[key] for key in sorted(attempts)][-MAX_ATTEMPTS:]
    _keep_newest_log(newest)
    return newest, counts


def _count_ends(
    known: Sequence[AttemptDict], attempts: Mapping[int, AttemptDict], counts: AttemptCountsDict
) -> None:
    """Count attempts that are new, and those that are known as running and have ended."""
    running_before = {item["number"] for item in known if item["result"] == AttemptResult.RUNNING}
    known_before = {item["number"] for item in known}
    for number_, attempt in attempts.items():
        if number_ in known_before and number_ not in running_before:
            continue
        if attempt["result"] == AttemptResult.FAILED:
            counts["failed"] += 1
        elif attempt["result"] == AttemptResult.PREEMPTED:
            counts["preempted"] += 1
    counts["total"] = max([counts["total"], *attempts])


def count_as_succeeded(attempt: AttemptDict, counts: AttemptCountsDict) -> None:
    """The newest attempt has ended well after all."""
    if attempt["result"] == AttemptResult.FAILED:
        counts["failed"] -= 1
    elif attempt["result"] == AttemptResult.PREEMPTED:
        counts["preempted"] -= 1
    attempt["result"] = AttemptResult.SUCCEEDED
    attempt.pop("reason", None)
    attempt.pop("message", None)
    attempt.pop("exitCode", None)


def _keep_newest_log(attempts: Sequence[AttemptDict]) -> None:
    """A status isn't the place for more than one; MLflow has them all."""
    with_log = [attempt for attempt in attempts if attempt.get("log")]
    for attempt in with_log[:-1]:
        attempt.pop("log", None)


def mlflow_link(run: TrackedRun, target: ComputeTargetSpec) -> MlflowRunDict:
    """status.mlflow."""
    return run_link(run.experiment_id, run.run_id, target)


def run_link(experiment_id: str, run_id: str, target: ComputeTargetSpec) -> MlflowRunDict:
    """Ids and page of a run."""
    root = (target.tracking.external_uri or target.tracking_uri).rstrip("/")
    page = tracker_facts(target).run_page.format(root=root, experiment=experiment_id, run=run_id)
    return {"experimentId": experiment_id, "runId": run_id, "url": page}


def result_metrics(metrics: dict[str, Any]) -> dict[str, str]:
    """Final metrics by their names in the API, as text, bounded."""
    chosen = {
        LOGGED_NAMES.get(name, name): number(float(value))
        for name, value in sorted(metrics.items())
        if name not in _NOT_RESULTS and isinstance(value, int | float)
    }
    return {name: text for name, text in list(chosen.items())[:MAX_METRICS] if text is not None}


def row_counts(summary: JsonObject) -> ResultRowsDict:
    """status.result.rows from a run's summary; what isn't a count is left out."""
    told: JsonObject = summary.get("rows") or {}
    found: ResultRowsDict = {}
    if train := _counts(told.get("train")):
        found["train"] = train
    if held_out := _counts(told.get("evaluation")):
        found["evaluation"] = held_out
    return found


def _counts(told: JsonObject | None) -> RowCountsDict | None:
    counts = told or {}
    names = [field.alias or name for name, field in RowCounts.model_fields.items()]
    # Any, since the names are those of the model.
    kept: Any = {name: counts[name] for name in names if isinstance(counts.get(name), int)}
    return kept if "used" in kept else None


def tracked_metrics(run: TrackedRun | None) -> JsonObject:
    """Final metrics as a run's tag has them."""
    return tagged_metrics(run.tags) if run else {}


def tagged_metrics(tags: Mapping[str, str]) -> JsonObject:
    """Final metrics in a tag of a run or of a version."""
    try:
        found: Any = json_value(tags.get(TAG_METRICS, ""), NOTE)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def number(value: Any) -> str | None:
    """A number with four significant digits, as text: a float in status prints badly."""
    return f"{float(value):.4g}" if isinstance(value, int | float) else None


def duration(seconds: int) -> str:
    """Seconds for people, as kubectl writes ages: 45s, 3m20s, 2h5m."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60}m"


def _attempt(run: RunState, before: AttemptDict | None) -> AttemptDict:
    result = RESULTS.get(run.phase, AttemptResult.RUNNING)
    attempt: AttemptDict = {"number": run.attempt, "job": run.name, "result": result}
    if started := _started(run, before):
        attempt["startTime"] = started
    if run.phase not in FINISHED:
        return attempt
    if run.ended_at:
        attempt["endTime"] = rfc3339(run.ended_at)
    if run.exit_code is not None:
        attempt["exitCode"] = run.exit_code
    outcome = run.outcome
    if reason := outcome.reason if outcome else run.reason:
        attempt["reason"] = reason
    if message := (outcome.message if outcome else "") or run.message:
        attempt["message"] = shorten(message)
    if run.last_lines and result == AttemptResult.FAILED:
        attempt["log"] = run.last_lines
    return attempt


def _started(run: RunState, before: AttemptDict | None) -> str | None:
    """When a run began; nothing while it waits, maybe once more."""
    if run.phase == "pending":
        return None
    if run.started_at:
        return rfc3339(run.started_at)
    return before.get("startTime") if before else None


def _integer(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None


def _count(value: float | None, most: int = MAX_COUNT) -> int | None:
    """A whole number that isn't negative, nor more than there can be."""
    return int(value) if value is not None and 0 <= value <= most else None


def _integer_text(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
