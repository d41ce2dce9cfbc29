"""What a run leaves: an adapter or a whole model, and the merged model when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.objectives import OBJECTIVES
from kubetune.api.plan import RunPlan, in_container

from kubetune_runner import merging
from kubetune_runner.starts import Start
from kubetune_runner.upload import describe, save


@dataclass(frozen=True)
class Saved:
    """Folders to upload."""

    result: Path
    merged: Path | None = None


def save_results(plan: RunPlan, start: Start, model: Any, tokenizer: Any, *, chat: bool) -> Saved:
    """Write the results below the checkpoints, where another attempt finds what it needs."""
    folder = in_container(plan.training.checkpoint.directory) / "result"
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
    if not start.merged and not plan.merge:
        return Saved(adapter)
    whole = folder / ("model" if start.merged else "merged")
    dtype = merging.merge(start.base, start.folder, adapter, whole)
    describe(tokenizer, dtype, whole, **about)
    # What the adapter of a merged start belongs to is gone with this run.
    return Saved(whole) if start.merged else Saved(adapter, whole)
