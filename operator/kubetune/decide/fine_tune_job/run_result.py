"""Where a run has left its model, by its own word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.run.plan import (
    FILES_DIGEST,
    TAG_FILES,
    TAG_MERGED_FILES,
    TAG_MERGED_MODEL_ID,
    TAG_MERGED_MODEL_PATH,
    TAG_MODEL_ID,
    TAG_MODEL_PATH,
)
from kubetune.targets.values import RunState
from kubetune.tracking.base import TrackedRun


@dataclass(frozen=True)
class RunResult:
    """Where the tracking server keeps what a run has made."""

    run_id: str
    experiment_id: str
    """Empty when it isn't known."""
    source: str
    """``models:/<model id>`` or ``runs:/<run id>/<path>``."""
    merged_source: str = ""
    """The same for the merged model; empty when there is none."""
    files_digest: str | None = None
    """Of the list of the model's files."""
    merged_files_digest: str | None = None


def result_of(run: RunState | None, tracked: TrackedRun | None) -> RunResult | None:
    """The model of a run that succeeded: from the run's outcome, else from its tags."""
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
    return RunResult(
        str(run_id),
        str(experiment_id),
        source,
        merged_source,
        _files_digest(summary.get("filesDigest") or tags.get(TAG_FILES)),
        _files_digest(merged.get("filesDigest") or tags.get(TAG_MERGED_FILES)),
    )


def _files_digest(told: Any) -> str | None:
    """A digest, if a run has told one."""
    return told if isinstance(told, str) and re.fullmatch(FILES_DIGEST, told) else None


def _source(run_id: Any, model_id: Any, path: Any) -> str:
    if model_id:
        return f"models:/{model_id}"
    return f"runs:/{run_id}/{path}" if path else ""
