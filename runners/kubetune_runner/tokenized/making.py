"""Makes the tables of a training's rows: reads, splits, tokenizes and writes, a batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubetune.api.run.plan import RunPlan

from kubetune_runner import data
from kubetune_runner.data.splits import some
from kubetune_runner.stages import Watch
from kubetune_runner.text.encoding import Counts, check_lengths
from kubetune_runner.text.prompts import chosen
from kubetune_runner.tokenized import processes
from kubetune_runner.tokenized.encoders import Encoder, encoder_of
from kubetune_runner.tokenized.processes import PlainWayNeededError, Processes, Work
from kubetune_runner.tokenized.table import TableWriter
from kubetune_runner.tokenized.units import (
    HELD_OUT,
    MEASURED,
    SPLITS,
    TRAIN,
    Part,
    Unit,
    encode_unit,
    units,
)

log = logging.getLogger(__name__)

ALONE_BYTES = 16 * 1024 * 1024
"""Rows of fewer bytes are tokenized sooner than processes have begun."""


@dataclass
class Made:
    """What is known of tables besides their rows."""

    counts: dict[str, Counts] = field(default_factory=lambda: {split: Counts() for split in SPLITS})
    chat: bool = False
    """Whether training reads chats."""
    rows: int = 0
    """Rows that were chosen to train."""
    all_measured: bool = True
    """Whether a loss is computed on all held-out rows."""


def file_of(split: str) -> str:
    """The name of a split's table."""
    return f"{split}.arrow"


def make(
    loaded: data.LoadedDataset,
    plan: RunPlan,
    folder: Path,
    tokenizer_folder: Path,
    tokenizer: Callable[[], Any],
    watch: Watch,
    count: int | None = None,
) -> Made:
    """Write the tables of both splits into a folder.

    ``count`` is the number of processes; None: as many as there is use for. Raises RunError as
    encoders do, RowsTooLong and DiskFull.
    """
    settings = plan.training
    share = chosen(len(loaded.train), settings.data_fraction, settings.data_seed)
    splits = {TRAIN: loaded.train.pick(share), HELD_OUT: loaded.evaluation}
    budget = settings.evaluation.max_loss_rows
    # Chosen before any of them is left out, so that they are the same for every model.
    measured = some(len(loaded.evaluation), budget, plan.dataset.splits.seed)
    if len(measured) < len(loaded.evaluation):
        splits[MEASURED] = loaded.evaluation.pick(measured)
    columns = [column.name for column in loaded.columns]
    encoder = encoder_of(plan)
    if count is None:
        count = processes.wanted() if loaded.train.stored.size >= ALONE_BYTES else 1
    work = Work(plan.to_json(), str(tokenizer_folder), columns, loaded.train.stored.descriptor)
    total = sum(map(len, splits.values()))

    def alone() -> Iterator[tuple[Unit, dict[str, Part]]]:
        for unit in units(splits):
            rows = loaded.train.stored.batch(unit.batch)
            yield unit, encode_unit(unit, rows, plan, encoder, tokenizer(), columns)

    def write(parts: Iterator[tuple[Unit, dict[str, Part]]]) -> Made:
        return _write(parts, folder, encoder, len(share), total, watch)

    log.info("tokenizing %s rows with %d process%s", f"{total:,}", count, "es" * (count > 1))
    made: Made | None = None
    if count > 1:
        try:
            with Processes(count, work) as running:
                made = write(running.made(units(splits)))
        except PlainWayNeededError:
            log.info("the tokenizer needs torch, so one process tokenizes")
    made = made or write(alone())
    made.all_measured = MEASURED not in splits
    for counts in made.counts.values():
        check_lengths(counts, settings.hyperparameters.max_length, settings.long_rows)
    return made


def _write(
    parts: Iterator[tuple[Unit, dict[str, Part]]],
    folder: Path,
    encoder: Encoder,
    rows: int,
    total: int,
    watch: Watch,
) -> Made:
    made = Made(rows=rows)
    report = watch.begin("tokenizing", "rows", total)
    noted: set[str] = set()
    done = 0
    writers = {
        split: TableWriter(folder / file_of(split), encoder, asked=split != TRAIN)
        for split in SPLITS
    }
    try:
        for unit, found in parts:
            for split, part in found.items():
                writers[split].write(part.table)
                made.counts[split].add(part.counts)
                made.chat |= part.chat and split == TRAIN
                _tell(part, noted)
            done += sum(map(len, unit.rows.values()))
            report(done, total)
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    for writer in writers.values():
        writer.close()
    return made


def _tell(part: Part, noted: set[str]) -> None:
    """Log what is noted of rows, the first of each kind."""
    for kind, sentence in part.notes.items():
        if kind not in noted:
            log.warning("%s", sentence)
        noted.add(kind)
