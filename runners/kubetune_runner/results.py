"""What a run leaves: an adapter or a whole model, and the merged model when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetune.api.run.plan import RunPlan, in_container
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner.mlflow import card, records
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import MERGED, describe, save, upload
from kubetune_runner.model import adapter_files, merging
from kubetune_runner.model.starting import StartingModel
from kubetune_runner.text.encoding import Counts

if TYPE_CHECKING:
    from kubetune_runner.training.held_out import Evaluation

MAX_SAMPLES = 8


@dataclass(frozen=True)
class Saved:
    """Folders to upload."""

    result: Path
    merged: Path | None = None


def folder_of(plan: RunPlan) -> Path:
    """Below the checkpoints, where another attempt finds what it needs."""
    return in_container(plan.training.checkpoint.directory) / "result"


def save_results(
    plan: RunPlan,
    start: StartingModel,
    model: Any,
    tokenizer: Any,
    *,
    chat: bool,
    rows: Sequence[Sequence[int]] = (),
) -> Saved:
    """Write the results into their folder; ``rows`` are texts to compare a merged model on.

    Raises RunError as ``adapter_files.check_saved`` and ``merging.merge`` do.
    """
    folder = folder_of(plan)
    about: dict[str, Any] = {
        "chat": chat,
        "max_new_tokens": plan.training.evaluation.max_new_tokens,
        "scores": OBJECTIVES[plan.training.objective].scores,
    }
    if plan.training.method == "full":
        save(model, tokenizer, start.base, folder / "model", **about)
        return Saved(folder / "model")
    adapter = folder / "adapter"
    save(model, tokenizer, start.base, adapter, **about)
    adapter_files.check_saved(model, adapter)
    if not start.merged and not plan.merge:
        return Saved(adapter)
    whole = folder / ("model" if start.merged else "merged")
    dtype = merging.merge(start.base, start.folder, adapter, whole, rows)
    describe(tokenizer, dtype, whole, **about)
    # What the adapter of a merged start belongs to is gone with this run.
    return Saved(whole) if start.merged else Saved(adapter, whole)


def upload_results(
    plan: RunPlan,
    tracker: Tracker,
    saved: Saved,
    rows: Mapping[str, Counts],
    baseline: Evaluation | None,
    tuned: Evaluation,
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """Upload what a run leaves and what is known of it; returns where it is, for the summary.

    ``rows`` are those of each split, ``metrics`` what the model card shows. Raises RunError as
    ``upload.upload`` does.
    """
    tracker.stages.begin("uploading")
    counts = {split: encoded.counts() for split, encoded in rows.items()}
    counts["evaluation"] |= tuned.counts()
    artifacts: dict[str, Any] = {
        "environment.json": records.environment(),
        "rows.json": counts,
        "plan.json": records.plan_document(plan),
        **_samples(baseline, tuned),
    }
    for folder in filter(None, (saved.result, saved.merged)):
        card.write(folder, plan, rows=counts, metrics=metrics)
    # First, so that a run that is tagged with its result has both.
    merged = {"merged": upload(tracker, saved.merged, {}, MERGED)} if saved.merged else {}
    return {
        **upload(tracker, saved.result, artifacts),
        **merged,
        "runId": tracker.run_id or "",
        "experimentId": tracker.experiment_id or "",
        "rows": counts,
    }


def _samples(baseline: Evaluation | None, tuned: Evaluation) -> dict[str, Any]:
    """The file samples.json: some answers before and after, where both are known."""
    if baseline is None or not tuned.rows:
        return {}
    answers = zip(tuned.rows, baseline.answers, tuned.answers, strict=True)
    found = [
        {"prompt": row.prompt, "reference": row.reference, "base": before, "tuned": after}
        for row, before, after in list(answers)[:MAX_SAMPLES]
    ]
    return {"samples.json": found}
