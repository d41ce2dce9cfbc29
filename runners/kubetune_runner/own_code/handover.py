"""What the user's code is given: rows as files, folders, and its environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kubetune.api import own_code as names
from kubetune.api.plan import ENV_ATTEMPT, ENV_PLAN, ENV_RUN_KEY, DatasetPlan, RunPlan

from kubetune_runner import checkpoints
from kubetune_runner.data import LoadedDataset, Row
from kubetune_runner.data.preferences import UnusableRowError, pair_of, rated_of
from kubetune_runner.prompts import make_examples

TRAINER_STATE = "trainer_state.json"
"""transformers writes it last."""
_KEPT = (ENV_ATTEMPT, ENV_RUN_KEY)
_LOOPBACK = "127.0.0.1"


def write_rows(
    folder: Path, plan: RunPlan, loaded: LoadedDataset, train: list[Row]
) -> dict[str, str]:
    """Write the rows of each split; returns the variables that name the files.

    Raises RunError ColumnMissing.
    """
    found: dict[str, str] = {}
    for rows, name, rendered, raw in (
        (train, "train", names.ENV_TRAIN_DATA, names.ENV_TRAIN_ROWS),
        (loaded.evaluation, "eval", names.ENV_EVAL_DATA, names.ENV_EVAL_ROWS),
    ):
        if not rows:
            continue
        found[rendered] = _write(folder / f"{name}.jsonl", _rendered(rows, plan))
        found[raw] = _write(folder / f"{name}-rows.jsonl", rows)
    return found


def environment(
    inherited: Mapping[str, str], plan: RunPlan, plan_file: Path, run_id: str, attempt: int
) -> dict[str, str]:
    """The environment of the code, without what is the runner's own.

    The run's credentials for MLflow are in it, as anything that logs to the run needs them; the
    tokens for inputs aren't: these are read already.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _KEPT or not name.startswith(("KUBETUNE_", "KUBEFLOW_TRAINER_"))
    }
    own = {
        ENV_PLAN: str(plan_file),
        "MLFLOW_TRACKING_URI": plan.tracking.uri,
        "MLFLOW_EXPERIMENT_NAME": plan.tracking.experiment,
        "MLFLOW_RUN_ID": run_id,
        "PYTHONUNBUFFERED": "1",
    }
    if attempt > 1:
        # The first attempt's parameters stay; MLflow refuses other values, and a path to go on
        # from is another one.
        own["MLFLOW_MAX_LOG_PARAMS"] = "0"
    # Progress goes to this machine, whatever proxy is set.
    direct = ",".join(filter(None, (kept.get("no_proxy") or kept.get("NO_PROXY"), _LOOPBACK)))
    return kept | own | {"no_proxy": direct, "NO_PROXY": direct}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of transformers' that was written to its end."""
    found = reversed(checkpoints.numbered(folder))
    return next((path for path in found if _whole(path / TRAINER_STATE)), None)


def _whole(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _rendered(rows: list[Row], plan: RunPlan) -> Iterable[Row]:
    """The rows under the column names of trl's formats, as they train there."""
    dataset = plan.dataset
    if plan.prompt is None and dataset.format in ("preference", "unpairedPreference"):
        yield from _preferences(rows, dataset)
        return
    for example in make_examples(rows, dataset, plan.prompt):
        if example.fault is not None:
            # The inspection has reported it.
            continue
        if example.messages is not None:
            tools = {"tools": example.tools} if example.tools else {}
            yield {"messages": example.messages, **tools}
        elif example.text is not None:
            yield {"text": example.text}
        else:
            yield {"prompt": example.prompt, "completion": example.completion}


def _preferences(rows: list[Row], dataset: DatasetPlan) -> Iterable[Row]:
    for row in rows:
        try:
            if dataset.format == "preference":
                pair = pair_of(row, dataset.columns)
                yield {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            else:
                rated = rated_of(row, dataset.columns)
                yield {
                    "prompt": rated.prompt,
                    "completion": rated.completion,
                    "label": rated.label,
                }
        # The inspection has reported it.
        except UnusableRowError:
            continue


def _write(path: Path, rows: Iterable[Any]) -> str:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return str(path)
