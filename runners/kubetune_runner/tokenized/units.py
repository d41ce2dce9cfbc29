"""The work on rows in pieces: one batch of the stored rows, of both splits, is a unit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetune.api.run.plan import RunPlan

from kubetune_runner.data.stored import Row, Rows
from kubetune_runner.data.verdicts import Place
from kubetune_runner.text.encoding import Counts
from kubetune_runner.tokenized.encoders import Encoder
from kubetune_runner.tokenized.table import as_batch, largest_of

if TYPE_CHECKING:
    import pyarrow as pa


TRAIN, HELD_OUT, MEASURED = SPLITS = ("train", "evaluation", "measured")
"""Tables: rows that train, all that are held out, and those of them that a loss is computed on. The
last one is empty where these are all.
"""


@dataclass(frozen=True)
class Unit:
    """Rows of one batch of the stored ones."""

    batch: int
    rows: Mapping[str, Sequence[int]]
    """By split, their places in the batch."""
    places: Mapping[str, Sequence[Place]]
    """And in the source."""


@dataclass(frozen=True)
class Part:
    """What became of a unit's rows of one split."""

    table: pa.RecordBatch
    counts: Counts
    notes: Mapping[str, str]
    chat: bool


def units(splits: Mapping[str, Rows]) -> Iterator[Unit]:
    """All rows of the splits, in the order in which they are stored."""
    stored = next(iter(splits.values())).stored
    at = dict.fromkeys(splits, 0)
    for batch, start in enumerate(stored.starts):
        last = batch + 1 == len(stored.starts)
        end = stored.count if last else stored.starts[batch + 1]
        rows: dict[str, list[int]] = {}
        places: dict[str, list[Place]] = {}
        for split, chosen in splits.items():
            until = bisect_left(chosen.numbers, end, lo=at[split])
            picked = range(at[split], until)
            at[split] = until
            if picked:
                rows[split] = [chosen.numbers[each] - start for each in picked]
                places[split] = [chosen.place(each) for each in picked]
        if rows:
            yield Unit(batch, rows, places)


def encode_unit(
    unit: Unit,
    stored: Sequence[Row],
    plan: RunPlan,
    encoder: Encoder,
    tokenizer: Any,
    columns: Sequence[str],
) -> dict[str, Part]:
    """The unit's rows as token ids, by split; ``stored`` are all rows of its batch.

    Raises RunError as the encoders do.
    """
    parts: dict[str, Part] = {}
    for split, numbers in unit.rows.items():
        rows = [stored[at] for at in numbers]
        encoded, chat = encoder.encode(rows, unit.places[split], plan, tokenizer, columns)
        table = as_batch(encoder, encoded.rows, asked=split != TRAIN)
        counts = encoded.tally
        counts.largest = largest_of(table)
        parts[split] = Part(table, counts, encoded.notes, chat)
    return parts
