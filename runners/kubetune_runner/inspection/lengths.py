"""Lengths of the rows' text: tokens of a model's tokenizer, else characters."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.inspection import LengthBucket, LengthHistogram
from kubetune.api.kinds.prompt_template.spec import as_text
from kubetune.api.rows import FORMAT_ROLES, DatasetFormat
from kubetune.api.run.plan import DatasetPlan

from kubetune_runner.data.preferences import Text, UnusableRowError, pair_of, rated_of
from kubetune_runner.data.readers import Row
from kubetune_runner.data.turns import turn_of, turns_fault

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_CHARACTERS = 4 * 1024 * 1024
"""Text that is tokenized at once."""
BATCH_ROWS = 4096
FIRST_BUCKET = 16


class Lengths:
    """Length of each row's text, without the special tokens that a chat template adds.

    With a PromptTemplate a row becomes other text; the count is that of the row's own
    columns.
    """

    def __init__(self, plan: DatasetPlan, tokenizer: Tokenizer | None, name: str | None) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._format: DatasetFormat = plan.format
        self._mapping = plan.columns
        self._lengths = array("I")
        self._waiting: list[str] = []
        self._characters = 0

    @property
    def unit(self) -> str:
        """tokens or characters."""
        return "tokens" if self._tokenizer else "characters"

    def add(self, row: Row) -> None:
        """Count a row; tokens in batches."""
        text = self._text(row)
        if self._tokenizer is None:
            self._lengths.append(len(text))
            return
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS or len(self._waiting) >= BATCH_ROWS:
            self._flush()

    def each(self) -> array[int]:
        """Lengths in the order of the rows."""
        self._flush()
        return self._lengths

    def histogram(self) -> LengthHistogram:
        """Sizes over all rows; there is at least one."""
        self._flush()
        lengths = array("I", sorted(self._lengths))
        last = len(lengths) - 1
        fields: dict[str, Any] = {
            "unit": self.unit,
            "minimum": lengths[0],
            "median": lengths[last // 2],
            "p95": lengths[-(-95 * len(lengths) // 100) - 1],
            "maximum": lengths[last],
            "total": sum(lengths),
            "buckets": [bucket.to_json() for bucket in _buckets(lengths)],
        }
        if self._name and self._tokenizer:
            fields["tokenizer"] = self._name
        return LengthHistogram.model_validate(fields)

    def _flush(self) -> None:
        if self._tokenizer is None or not self._waiting:
            return
        encodings = self._tokenizer.encode_batch_fast(self._waiting, add_special_tokens=False)
        self._lengths.extend(len(encoding.ids) for encoding in encodings)
        self._waiting.clear()
        self._characters = 0

    def _text(self, row: Row) -> str:
        mapping = self._mapping
        if self._format == "messages":
            turns: Any = row.get(mapping.of("messages", row))
            read = [] if turns_fault(turns) else [turn_of(turn) for turn in turns]
            return "\n".join(turn["content"] for turn in read)
        if self._format in ("preference", "unpairedPreference"):
            return _longest(row, self._format, mapping)
        names = [mapping.of(role) for role in FORMAT_ROLES[self._format]]
        values = [row[name] for name in names if row.get(name) is not None]
        if not values:
            # Columns that a PromptTemplate will pick from.
            values = [value for value in row.values() if isinstance(value, str)]
        return "".join(map(as_text, values))


def _longest(row: Row, format: DatasetFormat, mapping: ColumnMapping) -> str:
    """Prompt and answer; the longer answer decides whether a pair fits."""
    try:
        if format == "unpairedPreference":
            rated = rated_of(row, mapping)
            return _contents(rated.prompt) + _contents(rated.completion)
        pair = pair_of(row, mapping)
    except UnusableRowError:
        return ""
    return _contents(pair.prompt) + max(_contents(pair.chosen), _contents(pair.rejected), key=len)


def _contents(text: Text) -> str:
    return text if isinstance(text, str) else "\n".join(turn["content"] for turn in text)


def _buckets(lengths: array[int]) -> list[LengthBucket]:
    """Rows by the next power of two."""
    rows: Counter[int] = Counter()
    totals: Counter[int] = Counter()
    for length in lengths:
        up_to = max(FIRST_BUCKET, 1 << (length - 1).bit_length()) if length else FIRST_BUCKET
        rows[up_to] += 1
        totals[up_to] += length
    return [
        LengthBucket.model_validate({"upTo": up_to, "rows": rows[up_to], "total": totals[up_to]})
        for up_to in sorted(rows)
    ]
