"""Turns one file into rows, one at a time, with the place of everything that is wrong.

A reader never raises for what stands in a file: broken places come out as problems between
the rows, so that one pass finds all of them. No message holds text of a row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from kubetune.api.kinds.inspection import Problem

from kubetune_runner.data import parquet
from kubetune_runner.data.file_kinds import (
    COMMA,
    DELIMITER_LINE,
    DELIMITERS,
    OTHERS,
    delimiter_of,
    named,
    wrong_kind,
)
from kubetune_runner.data.findings import quote
from kubetune_runner.data.items import Item, Note, Row, SourceFile
from kubetune_runner.data.strict_json import loads

__all__ = ["ROW_LIMIT_BYTES", "Item", "Note", "Row", "SourceFile", "read_file"]

ROW_LIMIT_BYTES = 1024 * 1024
JSON_LIMIT_BYTES = 256 * 1024 * 1024
"""A json array is read as a whole; longer ones belong in jsonl."""

_TOO_LONG = f"is longer than the {ROW_LIMIT_BYTES:,} bytes a row may have; split or shorten it"
_TOO_DEEP = "nests lists and maps too deeply; write them as text"
_BOM = b"\xef\xbb\xbf"


def read_file(file: SourceFile) -> Iterator[Item]:
    """Rows and problems of a file, in order."""
    refusal = wrong_kind(file)
    if refusal:
        yield Problem(file=file.name, message=refusal)
        return
    reader = {
        "jsonl": _read_jsonl,
        "json": _read_json,
        "csv": _read_csv,
        "parquet": parquet.read,
    }[file.format]
    yield from reader(file)


def _problem(file: SourceFile, row: int | None, message: str) -> Problem:
    if row is None:
        return Problem(file=file.name, message=message)
    return Problem(file=file.name, row=row, message=message)


def _not_utf8(line: int, byte: int) -> str:
    return (
        f"line {line:,} isn't UTF-8 (byte {byte + 1:,} of the line); re-encode the file, for"
        " example `iconv -f WINDOWS-1252 -t UTF-8`"
    )


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers and lines without a byte order mark; None for one that is too long."""
    number = 0
    while line := stream.readline(ROW_LIMIT_BYTES + 2):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line.rstrip(b"\r\n")) <= ROW_LIMIT_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(ROW_LIMIT_BYTES)
        yield number, None


def _read_jsonl(file: SourceFile) -> Iterator[Item]:
    with file.path.open("rb") as stream:
        for number, line in _lines(stream):
            if line is None:
                yield _problem(file, number, f"line {number:,} {_TOO_LONG}")
                continue
            try:
                text = line.decode().strip()
                if text:
                    yield _object(file, number, loads(text))
            except UnicodeDecodeError as error:
                yield _problem(file, number, _not_utf8(number, error.start))
            except json.JSONDecodeError as error:
                yield _problem(
                    file,
                    number,
                    f"line {number:,} isn't JSON: {_fault(error)} at column {error.colno}",
                )
            except ValueError as error:
                yield _problem(file, number, f"line {number:,} isn't JSON: {error}")
            except RecursionError:
                yield _problem(file, number, f"line {number:,} {_TOO_DEEP}")


def _fault(error: json.JSONDecodeError) -> str:
    """What the parser says, some of whose sentences end on "at"."""
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at")


def _object(file: SourceFile, number: int, value: Any) -> Item:
    if isinstance(value, dict):
        return number, cast(Row, value)
    return _problem(
        file, number, f"the row is a JSON {_json_type(value)}; it must be an object of columns"
    )


def _json_type(value: Any) -> str:
    if isinstance(value, list):
        return "array"
    return "string" if isinstance(value, str) else "null" if value is None else "scalar"


def _read_json(file: SourceFile) -> Iterator[Item]:
    if _holds_json_lines(file.path):
        yield from _read_jsonl(file)
        return
    size = file.path.stat().st_size
    if size > JSON_LIMIT_BYTES:
        limit = JSON_LIMIT_BYTES // 2**20
        yield _problem(
            file, None, f"the file has {size:,} bytes; json may have {limit} MiB: use jsonl"
        )
        return
    data = file.path.read_bytes().removeprefix(_BOM)
    if not data.strip():
        return
    try:
        document = loads(data.decode())
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        yield _problem(file, None, _not_utf8(data.count(b"\n", 0, start) + 1, error.start - start))
        return
    except json.JSONDecodeError as error:
        where = f"line {error.lineno:,}, column {error.colno}"
        yield _problem(file, None, f"the file isn't JSON: {_fault(error)} at {where}")
        return
    except ValueError as error:
        yield _problem(file, None, f"the file isn't JSON: {error}")
        return
    except RecursionError:
        yield _problem(file, None, f"the file {_TOO_DEEP}")
        return
    rows = _rows_of(document)
    if rows is None:
        yield _problem(
            file, None, "the file must hold an array of objects, or an object with one such array"
        )
        return
    for number, row in enumerate(rows, 1):
        yield _object(file, number, row)


def _holds_json_lines(path: Path) -> bool:
    """Whether a file called json holds one object a line, as many on the Hub do."""
    with path.open("rb") as stream:
        first = stream.readline(ROW_LIMIT_BYTES).removeprefix(_BOM).strip()
        if not first.startswith(b"{") or not first.endswith(b"}"):
            return False
        try:
            document = json.loads(first)
        except ValueError:
            return False
        return bool(stream.read(4096).strip()) or _rows_of(document) is None


def _rows_of(document: Any) -> list[Any] | None:
    if isinstance(document, list):
        return cast("list[Any]", document)
    if isinstance(document, dict):
        values = list(cast("dict[str, Any]", document).values())
        lists = [value for value in values if isinstance(value, list)]
        if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
            return lists[0]
    return None


class _CsvLines:
    """Decoded lines for csv.reader; what is wrong with a line waits in ``problems``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines = _lines(stream)
        self.line = 0
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line, data in self._lines:
            self.line = line
            if data is None:
                # The rest can't be read: the line may have opened or closed a quote.
                self.problems.append(
                    f"line {self.line:,} {_TOO_LONG}. The rest of the file was not read"
                )
                return
            try:
                yield data.decode()
            except UnicodeDecodeError as error:
                self.problems.append(_not_utf8(self.line, error.start))
                yield data.decode(errors="replace")


def _read_csv(file: SourceFile) -> Iterator[Item]:
    csv.field_size_limit(ROW_LIMIT_BYTES)
    delimiter = file.delimiter or delimiter_of(file.path)
    if file.delimiter is None and delimiter != COMMA:
        message = (
            f"cells are separated by {named(delimiter)}, as the header or the line before it says;"
            " set csv.delimiter of the source if that is wrong"
        )
        yield Note(Problem(file=file.name, message=message))
    with file.path.open("rb") as stream:
        lines = _CsvLines(stream)
        reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        number = 0
        while True:
            start = lines.line + 1
            cells: list[str] | None = None
            failure: str | None = None
            try:
                cells = next(reader)
            except StopIteration:
                pass
            except csv.Error as error:
                failure = f"the row at line {start:,} isn't CSV: {error}"
                failure += _other_delimiter(header or [], delimiter)
            row_number = number + 1 if header else None
            for message in lines.problems:
                yield _problem(file, row_number, message)
            lines.problems.clear()
            if failure:
                yield _problem(file, row_number, failure)
                number += 1
                continue
            if cells is None:
                return
            if not cells:
                continue
            if header is None and start == 1 and _is_delimiter_line(cells, delimiter):
                continue
            if header is None:
                header = cells
                yield from _header_problems(file, header)
                continue
            number += 1
            if len(cells) != len(header):
                yield _problem(
                    file,
                    number,
                    f"the row at line {start:,} has {len(cells)} cells, the header has"
                    f" {len(header)}; quote cells that hold {named(delimiter)} or line breaks"
                    f"{_other_delimiter(header, delimiter)}",
                )
                continue
            yield number, {name: cell for name, cell in zip(header, cells, strict=True) if name}


def _is_delimiter_line(cells: list[str], delimiter: str) -> bool:
    return DELIMITER_LINE.match(delimiter.join(cells)) is not None


def _other_delimiter(header: list[str], used: str) -> str:
    """A way out where the header looks as if something else separated its cells."""
    among = OTHERS if len(header) == 1 else DELIMITERS
    other = next((each for each in among if each != used and each in "".join(header)), None)
    return f", or set csv.delimiter of the source to {named(other)}" if other else ""


def _header_problems(file: SourceFile, header: list[str]) -> Iterator[Item]:
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        yield Problem(
            file=file.name,
            field=name[:256],
            message=f"the header names column {quote(name)} {header.count(name)} times; rename it",
        )
    if "" in header:
        yield Note(
            Problem(
                file=file.name,
                message="the header has a column without a name, which is left out; name it",
            )
        )
