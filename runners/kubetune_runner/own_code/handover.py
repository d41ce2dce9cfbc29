"""What the user's code is given: rows as files, folders, and its environment."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import ENV_ATTEMPT, ENV_PLAN, ENV_RUN_KEY, DatasetPlan, RunPlan
from kubetune.api.training import own_code as names

from kubetune_runner import surroundings
from kubetune_runner.data import Row
from kubetune_runner.data.preferences import pair_of, rated_of
from kubetune_runner.data.spoken import Spoken, spoken_of
from kubetune_runner.data.stored import BATCH_ROWS, naming_a_full_disk
from kubetune_runner.data.verdicts import Fault, Place, fault_of
from kubetune_runner.errors import RunError
from kubetune_runner.hidden import find_hidden, said_of
from kubetune_runner.text.chats import TEMPLATE_REFUSES
from kubetune_runner.text.encoding import Counts
from kubetune_runner.text.prompts import Example, make_examples
from kubetune_runner.training import checkpoints

log = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
"""transformers writes it last."""
_KEPT = (ENV_ATTEMPT, ENV_RUN_KEY)
_LOOPBACK = "127.0.0.1"
REPORTING = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")
"""Variables by which code finds the run in MLflow."""
_VARIABLES = {
    "train": (names.ENV_TRAIN_DATA, names.ENV_TRAIN_ROWS),
    "eval": (names.ENV_EVAL_DATA, names.ENV_EVAL_ROWS),
}
Split = Literal["train", "eval"]
Placed = tuple[Row, Place]
"""A row and where it stands."""


@dataclass(frozen=True)
class _Made:
    """A row as the code gets it, and what it says."""

    row: Row
    spoken: Spoken = field(default_factory=Spoken)
    place: Place | None = None


@dataclass
class Written:
    """The rows of a split in files, and what became of them."""

    files: dict[str, str]
    """Variables that name the files."""
    rows: Counts


def write_rows(
    folder: Path,
    plan: RunPlan,
    split: Split,
    placed: Iterable[Placed],
    known: list[str],
    tokenizer: Any,
) -> Written:
    """Write the rows of a split, in full and as they train by the runner itself.

    What the chat template of ``tokenizer`` doesn't show of them is counted: code that renders chats
    mostly does it by that. Without one, or a tokenizer, it is what nobody reads. Raises RunError
    ColumnMissing and, where the Dataset asks for it, PartsHidden.
    """
    rendered, raw = _VARIABLES[split]
    paths = {rendered: folder / f"{split}.jsonl", raw: folder / f"{split}-rows.jsonl"}
    result = Counts()
    refuse = bool(plan.dataset.refuse_hidden)
    waiting = iter(placed)
    with (
        naming_a_full_disk("the rows", folder),
        paths[rendered].open("w", encoding="utf-8") as trained,
        paths[raw].open("w", encoding="utf-8") as whole,
    ):
        while batch := list(islice(waiting, BATCH_ROWS)):
            for one in _made(plan, batch, known):
                if isinstance(one, Fault):
                    result.empty += one.empty
                    result.unusable += not one.empty
                    continue
                result.used += 1
                if hidden := _hidden(one, tokenizer, refuse=refuse):
                    if not result.hidden:
                        log.warning("%s", hidden)
                    result.hidden += 1
                trained.write(json.dumps(one.row, ensure_ascii=False) + "\n")
            for row, _ in batch:
                whole.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not whole.tell():
            return Written({}, result)
    return Written({name: str(path) for name, path in paths.items()}, result)


def environment(
    inherited: Mapping[str, str], plan: RunPlan, plan_file: Path, run_id: str, attempt: int
) -> dict[str, str]:
    """The environment of the code, built up from nothing.

    It names the run in MLflow where it has what that takes. Without, what code logs to MLflow stays
    in a folder of its own: it would fail otherwise.
    """
    kept = surroundings.environment(inherited)
    kept |= {name: inherited[name] for name in _KEPT if name in inherited}
    own = {ENV_PLAN: str(plan_file), "PYTHONUNBUFFERED": "1"}
    if surroundings.may_report(inherited, kept, plan.tracking.uri):
        own |= dict(
            zip(REPORTING, (plan.tracking.uri, plan.tracking.experiment, run_id), strict=True)
        )
    else:
        log.info(
            "the code isn't given the credentials of %s, so it can't log to the run; the target's"
            " admin lists what it may have in spec.ownCodeVariables",
            plan.tracking.uri,
        )
    if attempt > 1:
        # The first attempt's parameters stay; MLflow refuses other values, and a path to continue
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
        return isinstance(json_file(path), dict)
    except (OSError, ValueError):
        return False


def _made(plan: RunPlan, placed: list[Placed], known: list[str]) -> list[_Made | Fault]:
    """Each row under the column names of trl's formats, or why it is left out."""
    dataset = plan.dataset
    if plan.prompt is None and dataset.format in ("preference", "unpairedPreference"):
        return [_preference(row, place, dataset) for row, place in placed]
    rows, places = [row for row, _ in placed], [place for _, place in placed]
    examples = make_examples(rows, dataset, plan.prompt, places, known)
    return [each.fault or _example(each) for each in examples]


def _example(example: Example) -> _Made:
    if example.messages is not None:
        tools = {"tools": example.tools} if example.tools else {}
        row: Row = {"messages": example.messages, **tools}
    elif example.text is not None:
        row = {"text": example.text}
    else:
        row = {"prompt": example.prompt, "completion": example.completion}
    return _Made(row, example.spoken, example.place)


def _preference(row: Row, place: Place, dataset: DatasetPlan) -> _Made | Fault:
    columns = dataset.columns
    if fault := fault_of(row, dataset.format, columns):
        return fault
    made = pair_of(row, columns) if dataset.format == "preference" else rated_of(row, columns)
    columns_of_trl = {name: value for name, value in vars(made).items() if name != "unread"}
    return _Made(columns_of_trl, spoken_of(row, dataset.format, columns), place)


def _hidden(made: _Made, tokenizer: Any, *, refuse: bool) -> str:
    """What nobody will see of a row, as a sentence; empty where there is nothing."""
    if getattr(tokenizer, "chat_template", None):
        try:
            return find_hidden([(made.place, made.spoken)], tokenizer, refuse=refuse).first
        except RunError as error:
            if error.reason != TEMPLATE_REFUSES:
                raise
    # The code has a template of its own.
    if made.spoken.unread:
        return said_of(made.place, made.spoken.unread, refuse=refuse)
    return ""
