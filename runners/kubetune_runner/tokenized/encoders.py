"""How rows of each format become token ids, and how these stand in a table; no torch.

What an objective learns from decides: one that reads pairs of answers has them encoded as pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kubetune.api.run.plan import RunPlan
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner.data.items import Row
from kubetune_runner.data.verdicts import Place
from kubetune_runner.text.encoding import EncodedRow, EncodedRows, encode
from kubetune_runner.text.preferences import EncodedPair, EncodedRated, encode_pairs, encode_rated
from kubetune_runner.text.prompts import make_examples

if TYPE_CHECKING:
    import pyarrow as pa


class Encoder(Protocol):
    """Of rows of one kind."""

    def encode(
        self,
        rows: Sequence[Row],
        places: Sequence[Place],
        plan: RunPlan,
        tokenizer: Any,
        columns: Sequence[str],
    ) -> tuple[EncodedRows[Any], bool]:
        """The rows as token ids, and whether there are chats among them.

        ``places`` tells where each row stands in its source, for messages, and ``columns`` are
        those of all rows.
        """
        ...

    def columns(self, rows: Sequence[Any], *, asked: bool = False) -> dict[str, pa.Array]:
        """Encoded rows as columns; if ``asked``, with what answers are generated from."""
        ...

    def row(self, values: Mapping[str, Any]) -> Any:
        """The encoded row of its values in the table."""
        ...


def encoder_of(plan: RunPlan) -> Encoder:
    """The encoder of a training's rows."""
    facts = OBJECTIVES[plan.training.objective]
    if "preference" in facts.formats:
        # A score belongs to a whole text.
        return Pairs(whole=facts.scores)
    return Rated() if "unpairedPreference" in facts.formats else Texts()


class Texts:
    """Texts, and prompts with their answers."""

    def encode(
        self,
        rows: Sequence[Row],
        places: Sequence[Place],
        plan: RunPlan,
        tokenizer: Any,
        columns: Sequence[str],
    ) -> tuple[EncodedRows[EncodedRow], bool]:
        """By the dataset's own columns or a PromptTemplate."""
        examples = make_examples(rows, plan.dataset, plan.prompt, places, columns)
        encoded = encode(
            examples,
            tokenizer,
            plan.training.hyperparameters.max_length,
            plan.training.long_rows,
            refuse_hidden=bool(plan.dataset.refuse_hidden),
        )
        return encoded, any(example.messages is not None for example in examples)

    def columns(self, rows: Sequence[EncodedRow], *, asked: bool = False) -> dict[str, pa.Array]:
        """What is learned, and what answers are generated from."""
        import pyarrow as pa

        learned = {
            "input_ids": lists([row.input_ids for row in rows]),
            "labels": lists([row.labels for row in rows]),
        }
        if not asked:
            return learned
        return learned | {
            "prompt_ids": lists([row.prompt_ids for row in rows]),
            "prompt": pa.array([row.prompt for row in rows], pa.string()),
            "reference": pa.array([row.reference for row in rows], pa.string()),
            "chat": pa.array([row.chat for row in rows], pa.bool_()),
        }

    def row(self, values: Mapping[str, Any]) -> EncodedRow:
        """As it was encoded; of rows that nobody asks for answers, without their texts."""
        return EncodedRow(**values)


class Pairs:
    """Pairs of answers."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        """Whether the table has each answer with its prompt before it."""

    def encode(
        self,
        rows: Sequence[Row],
        places: Sequence[Place],
        plan: RunPlan,
        tokenizer: Any,
        columns: Sequence[str],
    ) -> tuple[EncodedRows[EncodedPair], bool]:
        """Pairs that fit."""
        dataset = plan.dataset
        encoded = encode_pairs(
            rows,
            dataset.columns,
            tokenizer,
            plan.training.hyperparameters.max_length,
            places,
            cut=not self._whole,
            refuse_hidden=bool(dataset.refuse_hidden),
        )
        return encoded, are_chats(rows, dataset.columns.of("chosen"))

    def columns(self, rows: Sequence[EncodedPair], *, asked: bool = False) -> dict[str, pa.Array]:
        """Prompt and answers."""
        before = [row.prompt_ids if self._whole else [] for row in rows]
        return {
            "prompt_ids": lists([row.prompt_ids for row in rows]),
            "chosen_ids": lists(
                [[*prompt, *row.chosen_ids] for prompt, row in zip(before, rows, strict=True)]
            ),
            "rejected_ids": lists(
                [[*prompt, *row.rejected_ids] for prompt, row in zip(before, rows, strict=True)]
            ),
        }

    def row(self, values: Mapping[str, Any]) -> EncodedPair:
        """As it was encoded."""
        first = len(values["prompt_ids"]) if self._whole else 0
        return EncodedPair(
            values["prompt_ids"], values["chosen_ids"][first:], values["rejected_ids"][first:]
        )


class Rated:
    """Single answers, good or not."""

    def encode(
        self,
        rows: Sequence[Row],
        places: Sequence[Place],
        plan: RunPlan,
        tokenizer: Any,
        columns: Sequence[str],
    ) -> tuple[EncodedRows[EncodedRated], bool]:
        """Answers that fit."""
        dataset = plan.dataset
        encoded = encode_rated(
            rows,
            dataset.columns,
            tokenizer,
            plan.training.hyperparameters.max_length,
            places,
            refuse_hidden=bool(dataset.refuse_hidden),
        )
        return encoded, are_chats(rows, dataset.columns.of("completion"))

    def columns(self, rows: Sequence[EncodedRated], *, asked: bool = False) -> dict[str, pa.Array]:
        """Prompt, answer and label."""
        import pyarrow as pa

        return {
            "prompt_ids": lists([row.prompt_ids for row in rows]),
            "completion_ids": lists([row.completion_ids for row in rows]),
            "label": pa.array([row.label for row in rows], pa.bool_()),
        }

    def row(self, values: Mapping[str, Any]) -> EncodedRated:
        """As it was encoded."""
        return EncodedRated(**values)


def are_chats(rows: Sequence[Row], column: str) -> bool:
    """Whether the answers of a column are lists of turns."""
    return any(isinstance(row.get(column), list) for row in rows)


def lists(values: Sequence[Sequence[int] | None]) -> pa.Array:
    """A column of lists of token ids, or nulls; by way of numpy, ten times as fast as of lists."""
    import numpy as np
    import pyarrow as pa

    lengths = np.fromiter((len(each or ()) for each in values), np.int32, len(values))
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    flat = np.empty(int(offsets[-1]), np.int32)
    for at, each in enumerate(values):
        if each:
            flat[offsets[at] : offsets[at + 1]] = each
    mask = np.fromiter((each is None for each in values), bool, len(values))
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(flat), mask=pa.array(mask) if mask.any() else None
    )
