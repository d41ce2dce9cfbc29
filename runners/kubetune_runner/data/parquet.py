"""Rows of a Parquet file as JSON values, which is what the other formats have.

Its types say more than JSON and, written by pandas, less than was meant: a missing number makes a
column of whole numbers one of floats, with NaN or null where it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

from kubetune.api.inspection import Problem

from kubetune_runner.data.findings import quote
from kubetune_runner.data.items import Item, Note, SourceFile

BATCH_ROWS = 256
LARGEST_WHOLE = 2.0**53
"""Beyond it a float doesn't hold each whole number."""


def read(file: SourceFile) -> Iterator[Item]:
    """Rows and problems, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file.path)
        schema = table.schema_arrow
        binary = [field.name for field in schema if _holds_bytes(field.type)]
        for name in binary:
            yield _note(file, name, "holds bytes, which can't become text; it is left out")
        columns = [name for name in schema.names if name not in binary]
        whole = {name for name in columns if _is_whole(table, name)}
        infinite: set[str] = set()
        number = 0
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                for name in row:
                    if name not in infinite and _is_infinite(row[name]):
                        infinite.add(name)
                        yield _note(
                            file,
                            name,
                            f"holds an infinite number in row {number:,}, which isn't JSON; such"
                            " ones are read as null",
                        )
                yield (
                    number,
                    {
                        name: int(value) if name in whole and value is not None else value
                        for name, value in ((key, plain(value)) for key, value in row.items())
                    },
                )
    except (pa.ArrowException, OSError) as error:
        message = str(error).splitlines()[0][:200]
        yield Problem(file=file.name, message=f"the file can't be read as parquet: {message}")


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


def plain(value: Any) -> Any:
    """A value as JSON has it: no number is null, and what isn't one of its kinds becomes text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
