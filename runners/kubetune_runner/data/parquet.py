"""Rows of a Parquet file as JSON values, which is what the other formats have.

Its types say more than JSON and, written by pandas, less than was meant: a missing number makes a
column of whole numbers one of floats, with NaN or null where it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

from kubetune.api.kinds.inspection import Problem

from kubetune_runner.data.findings import quote
from kubetune_runner.data.items import Item, Note, SourceFile
from kubetune_runner.data.values import without_nulls

BATCH_ROWS = 256
LARGEST_WHOLE = 2.0**53
"""Beyond it a float doesn't hold each whole number."""
NAME, ARGUMENTS = "name", "arguments"
"""What a call of a tool has."""


def read(file: SourceFile) -> Iterator[Item]:
    """Rows and problems, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file.path)
        names = list(table.schema_arrow.names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield Problem(
                file=file.name,
                field=twice[0][:256],
                message=f"the file has {names.count(twice[0])} columns {quote(twice[0])}; rename"
                " them",
            )
            return
        yield from _rows(file, table)
    except (pa.ArrowException, OSError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0][:200]
        name = _broken_column(file)
        there = f"column {quote(name)} of the file" if name else "the file"
        yield Problem(
            file=file.name,
            field=name and name[:256],
            message=f"{there} can't be read as parquet: {message}",
        )


def _broken_column(file: SourceFile) -> str | None:
    """The one column that can't be read, where the others can."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = list(pq.ParquetFile(file.path).schema_arrow.names)
    except (pa.ArrowException, OSError):
        return None
    broken: list[str] = []
    for name in names:
        try:
            for _ in pq.ParquetFile(file.path).iter_batches(BATCH_ROWS, columns=[name]):
                pass
        except (pa.ArrowException, OSError):
            broken.append(name)
    return broken[0] if len(broken) == 1 else None


def _rows(file: SourceFile, table: Any) -> Iterator[Item]:
    fields = [field for field in table.schema_arrow if not _holds_bytes(field.type)]
    for field in table.schema_arrow:
        if field not in fields:
            yield _note(file, field.name, "holds bytes, which can't become text; it is left out")
    converters = {
        field.name: int if _is_whole(table, field.name) else converter(field.type)
        for field in fields
    }
    infinite: set[str] = set()
    number = 0
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=list(converters)):
        columns: dict[str, list[Any]] = {}
        for name in converters:
            try:
                columns[name] = _cells(batch.column(name))
            # Python's dates and times end with the year 9999, and it may not know a time zone.
            except (ValueError, OverflowError, LookupError) as error:
                yield _unreadable(file, name, number + _first_unreadable(batch.column(name)), error)
                return
        for at in range(batch.num_rows):
            number += 1
            row = {name: cells[at] for name, cells in columns.items()}
            for name in row:
                if name not in infinite and _is_infinite(row[name]):
                    infinite.add(name)
                    what = (
                        f"holds an infinite number in row {number:,}, which isn't JSON; such ones"
                        " are read as null"
                    )
                    yield _note(file, name, what)
            yield (
                number,
                {
                    name: None if _is_missing(value) else converters[name](value)
                    for name, value in row.items()
                },
            )


def _cells(column: Any) -> list[Any]:
    """Values as Python has them; of a time in nanoseconds, which it hasn't, the text."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_time64(kind) and kind.unit == "ns":
        numbers = column.cast(pa.int64()).to_pylist()
        if any(number is not None and number % 1000 for number in numbers):
            return column.cast(pa.string()).to_pylist()
    return column.to_pylist()


def _unreadable(file: SourceFile, column: str, row: int, error: Exception) -> Problem:
    fault = f"unknown time zone {error}" if isinstance(error, LookupError) else str(error)
    return Problem(
        file=file.name,
        row=row,
        field=column[:256],
        message=f"column {quote(column)} holds a value that can't be read in row {row:,}:"
        f" {fault[:200]}; store it as text",
    )


def _first_unreadable(cells: Any) -> int:
    """The first cell that can't be read, from 1."""
    for at, cell in enumerate(cells, 1):
        try:
            cell.as_py()
        except (ValueError, OverflowError, LookupError):
            return at
    return len(cells)


def _note(file: SourceFile, column: str, what: str) -> Note:
    return Note(
        Problem(file=file.name, field=column[:256], message=f"column {quote(column)} {what}")
    )


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        # A UUID has a text that everybody knows.
        return not isinstance(kind, pa.UuidType) and _holds_bytes(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(at).type) for at in range(kind.num_fields))
    return any(
        check(kind)
        for check in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _is_whole(table: Any, name: str) -> bool:
    """Whether a column is one of floats only since some of its whole numbers are missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(table.schema_arrow.field(name).type):
        return False
    compute: Any = pc
    missing = False
    for batch in table.iter_batches(batch_size=65536, columns=[name]):
        values = batch.column(0).cast(pa.float64())
        known = values.filter(compute.invert(compute.is_null(values, nan_is_null=True)))
        missing = missing or len(known) < len(values)
        is_whole = compute.and_(
            compute.equal(known, compute.trunc(known)),
            compute.less_equal(compute.abs(known), LARGEST_WHOLE),
        )
        if not compute.all(is_whole, min_count=0).as_py():
            return False
    return missing


def _is_infinite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isinf(value)
    if isinstance(value, dict):
        return any(map(_is_infinite, cast("dict[Any, Any]", value).values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_infinite, cast("list[Any]", value)))
    return False


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def converter(kind: Any) -> Callable[[Any], Any]:
    """What makes JSON of a value of a type: no number is null, and what isn't one of JSON's kinds
    becomes text. Narrow floats get the digits that tell them apart, as their writer had them.
    """
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return plain if isinstance(kind, pa.UuidType) else converter(kind.storage_type)
    if types.is_dictionary(kind):
        return converter(kind.value_type)
    if types.is_float16(kind) or types.is_float32(kind):
        return _narrow(types.is_float16(kind))
    if types.is_map(kind):
        key, item = converter(kind.key_type), converter(kind.item_type)
        return lambda pairs: [[_or_null(key, name), _or_null(item, value)] for name, value in pairs]
    if types.is_struct(kind):
        fields = {kind.field(at).name: kind.field(at).type for at in range(kind.num_fields)}
        return _struct({name: converter(each) for name, each in fields.items()})
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        item = converter(kind.value_type)
        return lambda values: [_or_null(item, value) for value in values]
    return plain


def _or_null(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if _is_missing(value) else convert(value)


def _narrow(half: bool) -> Callable[[float], float]:
    import numpy as np

    kind = np.float16 if half else np.float32
    return lambda value: float(str(kind(value)))


def _struct(fields: dict[str, Callable[[Any], Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def convert(value: dict[str, Any]) -> dict[str, Any]:
        found = {name: _or_null(fields[name], item) for name, item in value.items()}
        given = found.get(ARGUMENTS)
        if NAME in found and isinstance(given, dict):
            # Of all calls the file has the same arguments, and null where one doesn't give it.
            found[ARGUMENTS] = without_nulls(given)
        return found

    return convert


def plain(value: Any) -> Any:
    """A value as JSON has it, by its own type alone."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, Decimal):
        # Never as 1E-9.
        return format(value, "f")
    if isinstance(value, timedelta):
        return _duration(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _duration(value: timedelta) -> str:
    """As ISO 8601 has it: P1DT2H3.5S."""
    whole = (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1000
    # Of pandas, which reads what Python can't hold.
    whole += getattr(value, "nanoseconds", 0)
    seconds, part = divmod(abs(whole), 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    fraction = f".{part:09}".rstrip("0") if part else ""
    time = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M")) if count)
    if seconds or fraction or not (days or time):
        time += f"{seconds}{fraction}S"
    sign, date = "-" if whole < 0 else "", f"{days}D" if days else ""
    return f"{sign}P{date}T{time}" if time else f"{sign}P{date}"
