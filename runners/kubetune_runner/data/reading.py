"""Walks through the rows once: digests, columns, problems, and the rows where they are kept.

Memory is 36 bytes a row besides those that are kept; ``stored`` keeps all of them on disk.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from kubetune.api.kinds.dataset.spec import DEFAULT_EVALUATION_FRACTION
from kubetune.api.kinds.inspection import MAX_PROBLEMS, Column, Problem
from kubetune.api.run.plan import DatasetPlan

from kubetune_runner.data.columns import ColumnTypes, FormatCheck
from kubetune_runner.data.findings import Findings, quote
from kubetune_runner.data.readers import ROW_LIMIT_BYTES, Note, Row, SourceFile, read_file
from kubetune_runner.data.sources import open_source
from kubetune_runner.data.splits import HASH_BYTES, choose_splits, hold_out
from kubetune_runner.data.stored import Rows, StoredRows
from kubetune_runner.data.verdicts import Place
from kubetune_runner.errors import RunError
from kubetune_runner.stages import UNWATCHED, Report, Watch

NESTING = 100
"""Lists and maps in each other: libraries that meet deeper ones later on end with an error."""
_TOO_DEEP = f"the row has more than {NESTING} nested lists and maps; write them as text"

EVERY_ROWS = 1000
"""Between two reports of how far it has come."""

Visitor = Callable[[Row], None]


@dataclass
class SplitReading:
    """The rows of one split of the source."""

    name: str
    hashes: bytearray = field(default_factory=bytearray)
    rows: list[Row] = field(default_factory=list[Row])
    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Each row's number in its file."""
    files: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Where a file's rows begin, and its name."""

    @property
    def count(self) -> int:
        return len(self.hashes) // HASH_BYTES

    def place(self, at: int) -> tuple[str, int]:
        """File and number of a row."""
        file = bisect_right(self.files, at, key=lambda item: item[0]) - 1
        return self.files[file][1], self.numbers[at]


@dataclass
class Reading:
    """What one pass over the rows found."""

    revision: str | None
    train: SplitReading
    evaluation: SplitReading | None
    held_out: bytearray
    """One byte a row of ``train``: 1 where it is held out."""
    columns: list[Column]
    findings: Findings
    empty: int
    """Rows of both splits without a prompt, an answer or text."""
    unusable: int
    """Rows of both splits that don't fit the format."""
    trainable: int
    """Rows that train and fit the format as they are."""

    @property
    def digest(self) -> str:
        """Over the rows' canonical forms, split by split: format, files and chunks don't count."""
        total = hashlib.sha256()
        for split in filter(None, (self.train, self.evaluation)):
            _add_split(total, split.name, split.count, [split.hashes])
        return f"sha256:{total.hexdigest()}"

    @property
    def split_digest(self) -> str:
        """Over the rows that train and those that are held out, in order."""
        total = hashlib.sha256()
        _add_split(total, "train", self.train_count, self._pick(0))
        held_out = [self.evaluation.hashes] if self.evaluation else self._pick(1)
        _add_split(total, "evaluation", self.evaluation_count, held_out)
        return f"sha256:{total.hexdigest()}"

    @property
    def train_count(self) -> int:
        return self.train.count - sum(self.held_out)

    @property
    def evaluation_count(self) -> int:
        return self.evaluation.count if self.evaluation else sum(self.held_out)

    def first_rows(self) -> list[Row]:
        """The rows that were kept and train."""
        rows = zip(self.train.rows, self.held_out, strict=False)
        return [row for row, held_out in rows if not held_out]

    def train_rows(self, stored: StoredRows) -> Rows:
        """The rows that train, of all that were stored."""
        return Rows(stored, self._numbers(0), self._place)

    def evaluation_rows(self, stored: StoredRows) -> Rows:
        """The rows that are held out."""
        numbers = self._numbers(1)
        if self.evaluation:
            first = self.train.count
            numbers = range(first, first + self.evaluation.count)
        return Rows(stored, numbers, self._place)

    def _place(self, number: int) -> Place:
        """Where a row stands: those of the training split come first."""
        if self.evaluation and number >= self.train.count:
            return Place(*self.evaluation.place(number - self.train.count))
        return Place(*self.train.place(number))

    def _numbers(self, side: int) -> array[int]:
        """Rows of the training split that train (0) or are held out (1)."""
        return array("Q", (at for at, held_out in enumerate(self.held_out) if held_out == side))

    def _pick(self, side: int) -> Iterator[memoryview]:
        """Digests of the rows that train (0) or are held out (1), one at a time."""
        hashes = memoryview(self.train.hashes)
        for at, held_out in enumerate(self.held_out):
            if held_out == side:
                yield hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]


def read(
    plan: DatasetPlan,
    token: str | None,
    *,
    keep_rows: int = 0,
    visit: Visitor | None = None,
    watch: Watch = UNWATCHED,
) -> Reading:
    """Read every row of the splits that are used, and keep the first ones of each.

    ``visit`` sees each row that could be read, in order.

    Raises RunError as ``data.load`` does. Rows that can't be used raise
    RowsRefusedError.
    """
    findings = Findings()
    types = ColumnTypes()
    check = FormatCheck(plan.format, plan.columns, findings)
    with open_source(plan, token, findings) as source:
        choice = choose_splits(plan.splits, sorted(source.splits))
        splits = [SplitReading(name) for name in choice.names]
        report = watch.begin("reading", "rows")
        for split in splits:
            before = sum(each.count for each in splits)
            for file in source.splits[split.name]:
                told = _Told(report, before)
                _read_rows(file, split, types, check, findings, keep_rows, visit, told)
    columns = types.columns(findings)
    train = splits[0]
    evaluation = splits[1] if len(splits) > 1 else None
    if evaluation and plan.splits.evaluation_fraction not in (None, DEFAULT_EVALUATION_FRACTION):
        _note_unused_fraction(plan, evaluation.name, findings)
    held_out = bytearray(train.count) if evaluation else hold_out(train.hashes, plan.splits)
    try:
        _refuse_unusable(plan, train, findings)
        check.finish([column.name for column in columns], sum(split.count for split in splits))
    except RunError as error:
        raise RowsRefusedError(error, findings, columns) from error
    return Reading(
        revision=source.revision,
        train=train,
        evaluation=evaluation,
        held_out=held_out,
        columns=columns,
        findings=findings,
        empty=check.empty,
        unusable=check.unusable,
        trainable=sum(check.usable[at] for at, held in enumerate(held_out) if not held),
    )


@dataclass(frozen=True)
class _Told:
    """Reports the rows of a split; ``before`` are those of the one before it."""

    report: Report
    before: int

    def __call__(self, rows: int) -> None:
        self.report(self.before + rows, None)


def _note_unused_fraction(plan: DatasetPlan, split: str, findings: Findings) -> None:
    """A share that was asked for isn't taken where the source has a split to hold out."""
    fraction = plan.splits.evaluation_fraction
    if plan.splits.evaluation is None:
        message = (
            f"spec.splits.evaluationFraction {fraction:g} isn't used: the source has a split"
            f" {quote(split)}, which is held out"
        )
        findings.note(Problem(message=message))


class RowsRefusedError(RunError):
    """The rows can't be used: InvalidRows, NoRows, ColumnMissing or NoUsableRows.

    The summary has the first ``problems`` and their ``problemCount``, the report all of them.
    """

    def __init__(self, cause: RunError, findings: Findings, columns: list[Column]) -> None:
        problems = [problem.to_json() for problem in findings.all()[:MAX_PROBLEMS]]
        super().__init__(
            cause.reason,
            cause.message,
            retryable=cause.retryable,
            summary={"problems": problems, "problemCount": findings.count} if problems else {},
        )
        self.report = {
            "columns": [column.to_json() for column in columns],
            "problems": [problem.to_json() for problem in findings.all()],
        }


def _read_rows(
    file: SourceFile,
    split: SplitReading,
    types: ColumnTypes,
    check: FormatCheck,
    findings: Findings,
    keep_rows: int,
    visit: Visitor | None,
    told: _Told,
) -> None:
    split.files.append((split.count, file.name))
    for item in read_file(file):
        if isinstance(item, Note):
            findings.note(item.problem)
            continue
        if isinstance(item, Problem):
            findings.error(item)
            continue
        number, row = item
        canonical = _canonical(row)
        if isinstance(canonical, str):
            findings.error(Problem(file=file.name, row=number, message=canonical))
            continue
        split.numbers.append(number)
        split.hashes += hashlib.sha256(canonical).digest()
        types.add(row)
        check.add(file.name, number, row)
        if len(split.rows) < keep_rows:
            split.rows.append(row)
        if visit:
            visit(row)
        if split.count % EVERY_ROWS == 0:
            told(split.count)


def digest_of(row: Row) -> bytes | None:
    """A row's digest, as a reading keeps it; None of one that it refuses."""
    canonical = _canonical(row)
    return None if isinstance(canonical, str) else hashlib.sha256(canonical).digest()


def _canonical(row: Row) -> bytes | str:
    """The row as bytes that don't depend on the file's format, or what is wrong with it.

    Columns are sorted, and those that are null are left out: jsonl may omit what parquet
    stores as null.
    """
    present: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
    try:
        # Of the columns that are null the names alone are to be text.
        "".join(row).encode()
        data = json.dumps(
            present, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
        ).encode()
    except UnicodeEncodeError:
        return "the row has half of a surrogate pair, which isn't Unicode text; remove it"
    except ValueError:
        return "the row has a number too large for a float, such as 1e999; write it as text"
    except RecursionError:
        return _TOO_DEEP
    if len(data) > ROW_LIMIT_BYTES:
        return (
            f"the row has {len(data):,} bytes; at most {ROW_LIMIT_BYTES:,} are allowed."
            " Split or shorten it"
        )
    # What can't be so deep isn't looked at.
    if data.count(b"[") + data.count(b"{") > NESTING and _depth(present) > NESTING:
        return _TOO_DEEP
    return data


def _depth(value: Any) -> int:
    """How many lists and maps are nested."""
    deepest, waiting = 0, [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(each, dict):
            waiting += [(item, depth + 1) for item in cast("dict[str, Any]", each).values()]
        elif isinstance(each, list):
            waiting += [(item, depth + 1) for item in cast("list[Any]", each)]
    return deepest


def _refuse_unusable(plan: DatasetPlan, train: SplitReading, findings: Findings) -> None:
    if findings.error_count:
        first = findings.errors[0]
        place = ", ".join(
            part
            for part in (
                f"file {quote(first.file)}" if first.file else "",
                f"row {first.row:,}" if first.row else "",
            )
            if part
        )
        more = findings.error_count - 1
        others = f" ({more:,} more such problem{'s' if more > 1 else ''})" if more else ""
        raise RunError("InvalidRows", f"{place}: {first.message}{others}")
    if not train.count:
        raise RunError(
            "NoRows",
            f"split {quote(train.name)} of dataset {quote(plan.name)} has no rows; add some",
        )


def _add_split(total: Any, name: str, count: int, hashes: Iterable[bytearray | memoryview]) -> None:
    total.update(f"{name}\n{count}\n".encode())
    for part in hashes:
        total.update(part)
