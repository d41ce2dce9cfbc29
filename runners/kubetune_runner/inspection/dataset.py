"""Kind inspectDataset: rows, columns, digests and, with a model, tokens per row."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, cast

from kubetune.api.inspection import (
    MAX_COLUMNS,
    MAX_PROBLEMS,
    DatasetInspection,
    LengthHistogram,
    Problem,
)
from kubetune.api.plan import DatasetPlan, ModelPlan, TrackingPlan

from kubetune_runner.data import Row
from kubetune_runner.data.reading import read
from kubetune_runner.errors import RunError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_CHARACTERS = 4 * 1024 * 1024
"""Text that is tokenized at once."""


def inspect_dataset(
    plan: DatasetPlan,
    token: str | None,
    model: ModelPlan | None,
    tracking: TrackingPlan | None,
    report: dict[str, Any],
) -> DatasetInspection:
    """Read all rows once. ``report`` receives all columns and problems.

    Raises RunError as ``data.load`` does. A tokenizer that can't be read is a problem of the
    report, not a failure: the dataset is usable without.
    """
    counter, unreadable = _counter(plan, model, tracking)
    reading = read(plan, token, keep_rows=0, visit=counter.add if counter else None)
    if unreadable:
        reading.findings.note(Problem(message=unreadable))
    problems = [problem.to_json() for problem in reading.findings.all()]
    columns = [column.to_json() for column in reading.columns]
    report.update(columns=columns, problems=problems)
    fields: dict[str, Any] = {
        "digest": reading.digest,
        "splitDigest": reading.split_digest,
        "rows": {"train": reading.train_count, "evaluation": reading.evaluation_count},
        "columns": columns[:MAX_COLUMNS],
        "columnsTruncated": len(columns) > MAX_COLUMNS,
        "problems": problems[:MAX_PROBLEMS],
        "problemCount": reading.findings.count,
    }
    if reading.revision:
        fields["revision"] = reading.revision
    if counter:
        fields["lengths"] = counter.histogram().to_json()
    return DatasetInspection.model_validate(fields)


def _counter(
    plan: DatasetPlan, model: ModelPlan | None, tracking: TrackingPlan | None
) -> tuple[TokenCounter | None, str | None]:
    """A counter for the model's tokenizer, or why there is none."""
    if model is None:
        return None, None
    from kubetune_runner.inspection.model import read_tokenizer

    try:
        tokenizer = read_tokenizer(model, tracking)
    except RunError as error:
        if error.retryable:
            raise
        return None, f"tokens are not counted: {error.message}"[:512]
    return TokenCounter(tokenizer, model.name, plan), None


class TokenCounter:
    """Tokens of each row's text, without the special tokens that a chat template adds.

    With a PromptTemplate a row becomes other text; the count is that of the row's own
    columns.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, plan: DatasetPlan) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._format = plan.format
        self._mapping = plan.columns
        self._lengths = array("Q")
        self._waiting: list[str] = []
        self._characters = 0

    def add(self, row: Row) -> None:
        """Count a row, in batches."""
        text = self._text(row)
        self._waiting.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS or len(self._waiting) >= 4096:
            self._flush()

    def histogram(self) -> LengthHistogram:
        """Sizes over all rows; there is at least one."""
        self._flush()
        lengths = sorted(self._lengths)
        last = len(lengths) - 1
        return LengthHistogram(
            tokenizer=self._name,
            minimum=lengths[0],
            median=lengths[last // 2],
            p95=lengths[-(-95 * len(lengths) // 100) - 1],
            maximum=lengths[last],
            total=sum(lengths),
        )

    def _flush(self) -> None:
        encodings = self._tokenizer.encode_batch_fast(self._waiting, add_special_tokens=False)
        self._lengths.extend(len(encoding.ids) for encoding in encodings)
        self._waiting.clear()
        self._characters = 0

    def _text(self, row: Row) -> str:
        mapping = self._mapping
        if self._format == "messages":
            turns = row.get(mapping.messages)
            contents = [
                str(cast("dict[str, Any]", turn).get("content") or "")
                for turn in (cast("list[Any]", turns) if isinstance(turns, list) else [])
                if isinstance(turn, dict)
            ]
            return "\n".join(contents)
        names = {
            "promptCompletion": (mapping.prompt, mapping.completion),
            "text": (mapping.text,),
            # The longer answer decides whether a pair fits.
            "preference": (
                mapping.prompt,
                max(mapping.chosen, mapping.rejected, key=lambda name: len(str(row.get(name)))),
            ),
        }[self._format]
        values = [row[name] for name in names if row.get(name) is not None]
        if not values:
            # Columns that a PromptTemplate will pick from.
            values = [value for value in row.values() if isinstance(value, str)]
        return "".join(str(value) for value in values)
