"""Progress, attempts and results of a FineTuneJob as its status shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.fine_tune_job.status import RowCounts
from kubetune.api.kinds.running import MAX_ATTEMPTS
from kubetune.api.run.plan import (
    METRIC_ETA,
    METRIC_STEP,
    METRIC_TOKENS_PER_SECOND,
    TAG_ATTEMPT,
    TAG_MERGED_MODEL_ID,
    TAG_MERGED_MODEL_PATH,
    TAG_METRICS,
    TAG_MODEL_ID,
    TAG_MODEL_PATH,
    TAG_PHASE,
    TAG_PROGRESS,
    TAG_TOTAL_STEPS,
)
from kubetune.decide.decision import parse_time, rfc3339, shorten
from kubetune.targets.values import FINISHED, RunState
from kubetune.tracking.base import TrackedRun
from kubetune.tracking.facts import tracker_facts

MAX_METRICS = 64
# Metrics of the trainer's bookkeeping rather than of the result.
RESULTS = {
    "succeeded": "Succeeded",
    "failed": "Failed",
    "preempted": "Preempted",
    "stopped": "Stopped",
}
_NOT_RESULTS = (METRIC_STEP, METRIC_ETA)


def progress(run: TrackedRun, now: datetime) -> JsonObject:
    """status.progress from what a run's newest attempt says of itself."""
    metrics = told_progress(run)
    step = _integer(metrics.get(METRIC_STEP))
    total = _integer_text(run.tags.get(TAG_TOTAL_STEPS))
    eta = _integer(metrics.get(METRIC_ETA))
    value: JsonObject = {
        "stage": run.tags.get(TAG_PHASE),
        "step": step,
        "totalSteps": total,
        "percent": min(100, step * 100 // total) if step is not None and total else None,
        "epoch": _rounded(metrics.get("epoch"), 3),
        "loss": number(metrics.get("loss")),
        "evalLoss": number(metrics.get("eval_loss")),
        "learningRate": number(metrics.get("learning_rate")),
        "tokensPerSecond": _rounded(metrics.get(METRIC_TOKENS_PER_SECOND), 1),
        "etaSeconds": eta,
        "eta": duration(eta) if eta is not None else None,
        "updatedAt": rfc3339(now),
    }
    return {key: item for key, item in value.items() if item is not None}


def told_progress(run: TrackedRun) -> dict[str, float]:
    """Numbers that belong to one step of the newest attempt; none before it has any.

    The tracking server's newest metrics don't: after a step back, as without checkpoints, they
    are those of the higher step until it is passed.
    """
    try:
        told: Any = json.loads(run.tags.get(TAG_PROGRESS, ""))
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    given: JsonObject = told
    if str(given.get("attempt")) != run.tags.get(TAG_ATTEMPT):
        return {}
    return {key: float(value) for key, value in given.items() if isinstance(value, int | float)}


def tells_of(run: TrackedRun, attempts: Sequence[JsonObject]) -> bool:
    """Whether the newest attempt has reported; before that the run is as the last one left it."""
    reported = _integer_text(run.tags.get(TAG_ATTEMPT))
    return reported is None or not attempts or reported >= attempts[-1]["number"]


def progress_due(
    old: JsonObject | None,
    run: TrackedRun,
    now: datetime,
    at_least_seconds: float,
    shown: Callable[[TrackedRun, datetime], JsonObject] = progress,
) -> bool:
    """Whether new progress is worth a write: there is news, and the last write is old enough.

    ``shown`` makes of a run what the status shows.
    """
    if not old:
        return True
    updated = parse_time(old.get("updatedAt"))
    if updated is None:
        return True
    # A metric that was reported again with the same value is news too: the run is alive.
    fresh = run.updated_ms > updated.timestamp() * 1000
    changed = {**shown(run, now), "updatedAt": ""} != {**old, "updatedAt": ""}
    return (fresh or changed) and (now - updated).total_seconds() >= at_least_seconds


def finished_progress(
    old: JsonObject | None, summary: JsonObject, metrics: JsonObject, now: datetime
) -> JsonObject | None:
    """Progress once training is over: no time left to wait for.

    ``summary`` is what the run says at its end; polls may not have seen its last steps, or any.
    So all that is of one step is that of the last one, and no stage is left.
    """
    steps = summary.get("steps")
    if not old and not isinstance(steps, int):
        return None
    over = ("stage", "etaSeconds", "eta")
    kept = {key: value for key, value in (old or {}).items() if key not in over}
    told = {
        "loss": summary.get("loss"),
        "evalLoss": metrics.get("eval_loss"),
        "learningRate": summary.get("learningRate"),
    }
    for field, value in told.items():
        if isinstance(value, int | float):
            kept[field] = number(float(value))
    if isinstance(epoch := summary.get("epoch"), int | float):
        kept["epoch"] = _rounded(float(epoch), 3)
    mean = metrics.get("train_loss")
    if "loss" not in kept and isinstance(mean, int | float):
        # Of code that tells no loss of its last step.
        kept["loss"] = number(float(mean))
    kept.setdefault("updatedAt", rfc3339(now))
    if isinstance(steps, int):
        # A script may say less than it meant to do, but what has ended well is done.
        kept |= {"step": steps, "percent": 100}
        kept.setdefault("totalSteps", steps)
    return kept


def merge_attempts(
    known: Sequence[JsonObject], counts: JsonObject, runs: Sequence[RunState], *, stopped: bool
) -> tuple[list[JsonObject], JsonObject]:
    """status.attempts and status.counts after what the target shows.

    An attempt that the status knows as running and the target no longer knows is lost:
    stopped on our order (``stopped``), else failed.
    """
    attempts = {attempt["number"]: dict(attempt) for attempt in known}
    counts = {"total": 0, "failed": 0, "preempted": 0} | counts
    for run in runs:
        before = attempts.get(run.attempt)
        if before and before["result"] != "Running":
            continue
        if before is None and run.attempt <= counts["total"]:
            # Counted long ago, and no longer among the newest.
            continue
        attempts[run.attempt] = _attempt(run, before)
        if stopped and run.phase == "stopped":
            # On our order: no reason of anybody else's.
            for key in ("reason", "message"):
                attempts[run.attempt].pop(key, None)
    seen = {run.attempt for run in runs}
    for number_, attempt in attempts.items():
        if attempt["result"] == "Running" and number_ not in seen:
            attempt |= (
                {"result": "Stopped"}
                if stopped
                else {
                    "result": "Failed",
                    "reason": str(Reason.RUN_LOST),
                    "message": f"{attempt['job']} was deleted while it ran",
                }
            )
    running_before = {item["number"] for item in known if item["result"] == "Running"}
    known_before = {item["number"] for item in known}
    for number_, attempt in attempts.items():
        if number_ in known_before and number_ not in running_before:
            continue
        if attempt["result"] == "Failed":
            counts["failed"] += 1
        elif attempt["result"] == "Preempted":
            counts["preempted"] += 1
    counts["total"] = max([counts["total"], *attempts])
    newest = [attempts[key] for key in sorted(attempts)][-MAX_ATTEMPTS:]
    _keep_newest_log(newest)
    return newest, counts


def _keep_newest_log(attempts: Sequence[JsonObject]) -> None:
    """A status isn't the place for more than one; MLflow has them all."""
    with_log = [attempt for attempt in attempts if attempt.get("log")]
    for attempt in with_log[:-1]:
        del attempt["log"]


def mlflow_link(run: TrackedRun, target: ComputeTargetSpec) -> JsonObject:
    """status.mlflow."""
    return run_link(run.experiment_id, run.run_id, target)


def run_link(experiment_id: str, run_id: str, target: ComputeTargetSpec) -> JsonObject:
    """Ids and page of a run."""
    ids = {"experimentId": experiment_id, "runId": run_id}
    root = (target.tracking.external_uri or target.tracking_uri).rstrip("/")
    page = tracker_facts(target).run_page
    return ids | {"url": page.format(root=root, experiment=experiment_id, run=run_id)}


def result_metrics(metrics: dict[str, Any]) -> dict[str, str]:
    """Final metrics as text, bounded."""
    chosen = {
        name: number(float(value))
        for name, value in sorted(metrics.items())
        if name not in _NOT_RESULTS and isinstance(value, int | float)
    }
    return {name: text for name, text in list(chosen.items())[:MAX_METRICS] if text is not None}


def row_counts(summary: JsonObject) -> JsonObject:
    """status.result.rows from a run's summary; what isn't a count is left out."""
    names = [field.alias or name for name, field in RowCounts.model_fields.items()]
    found: JsonObject = {}
    for split in ("train", "evaluation"):
        counts: JsonObject = (summary.get("rows") or {}).get(split) or {}
        kept = {name: counts[name] for name in names if isinstance(counts.get(name), int)}
        if "used" in kept:
            found[split] = kept
    return found


def tracked_metrics(run: TrackedRun | None) -> JsonObject:
    """Final metrics as a run's tag has them; those of older runs as they were logged last."""
    if run is None:
        return {}
    return tagged_metrics(run.tags) or dict(run.metrics)


def tagged_metrics(tags: Mapping[str, str]) -> JsonObject:
    """Final metrics in a tag of a run or of a version."""
    try:
        found: Any = json.loads(tags.get(TAG_METRICS, ""))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class RunResult:
    """Where the tracking server keeps what a run has made."""

    run_id: str
    experiment_id: str
    """Empty when it isn't known."""
    source: str
    """``models:/<model id>`` or ``runs:/<run id>/<path>``."""
    merged_source: str = ""
    """The like of the merged model; empty when there is none."""


def result_of(run: RunState | None, tracked: TrackedRun | None) -> RunResult | None:
    """The model of a run that succeeded: by the run's own word, else by its tags."""
    summary: JsonObject = dict(run.outcome.summary) if run and run.outcome else {}
    tags = tracked.tags if tracked else {}
    run_id = summary.get("runId") or (tracked.run_id if tracked else None)
    if not run_id:
        return None
    source = _source(run_id, summary.get("modelId"), summary.get("artifactPath")) or _source(
        run_id, tags.get(TAG_MODEL_ID), tags.get(TAG_MODEL_PATH)
    )
    experiment_id = summary.get("experimentId") or (tracked.experiment_id if tracked else "")
    merged: JsonObject = summary.get("merged") or {}
    merged_source = _source(run_id, merged.get("modelId"), merged.get("artifactPath")) or _source(
        run_id, tags.get(TAG_MERGED_MODEL_ID), tags.get(TAG_MERGED_MODEL_PATH)
    )
    if not source:
        return None
    return RunResult(str(run_id), str(experiment_id), source, merged_source)


def _source(run_id: Any, model_id: Any, path: Any) -> str:
    if model_id:
        return f"models:/{model_id}"
    return f"runs:/{run_id}/{path}" if path else ""


def number(value: float | None) -> str | None:
    """A number with four significant digits, as text: a float in status prints badly."""
    return f"{value:.4g}" if value is not None else None


def duration(seconds: int) -> str:
    """Seconds for people, as kubectl writes ages: 45s, 3m20s, 2h5m."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60}m"


def _attempt(run: RunState, before: JsonObject | None) -> JsonObject:
    result = RESULTS.get(run.phase, "Running")
    outcome = run.outcome
    ended = run.phase in FINISHED
    value: JsonObject = {
        "number": run.attempt,
        "job": run.name,
        "startTime": _started(run, before),
        "endTime": rfc3339(run.ended_at) if ended and run.ended_at else None,
        "result": result,
        "exitCode": run.exit_code if ended else None,
        "reason": ((outcome.reason if outcome else run.reason) or None) if ended else None,
        "message": shorten((outcome.message if outcome else "") or run.message) or None
        if ended
        else None,
        "log": run.last_lines or None if result == "Failed" else None,
    }
    return {key: item for key, item in value.items() if item is not None}


def _started(run: RunState, before: JsonObject | None) -> str | None:
    """When a run began; nothing while it waits, maybe once more."""
    if run.phase == "pending":
        return None
    return rfc3339(run.started_at) if run.started_at else (before or {}).get("startTime")


def _integer(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None


def _integer_text(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _rounded(value: float | None, digits: int) -> float | None:
    return round(value, digits) if value is not None else None
