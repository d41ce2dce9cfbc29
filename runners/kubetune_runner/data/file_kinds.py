"""What a file is that isn't of the format it should have, and how cells of csv are separated."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path

from kubetune_runner.data.items import SourceFile

COMMA = ","
DELIMITERS = (COMMA, ";", "\t", "|")
OTHERS = (*DELIMITERS, ":", "^", "~", "\x1f", " ")
"""Those that aren't taken unless the user says so, too."""
DELIMITER_LINE = re.compile(r"sep=([^\"\r\n\0])\r?\n?$", re.IGNORECASE)
"""A first line by which spreadsheets are told what separates cells."""
_SAMPLE_BYTES = 64 * 1024
_SAMPLE_ROWS = 20
_TAR_MARK = 257, b"ustar"
"""Place and text."""

PACKED = {
    ".gz": "gunzip FILE",
    ".tgz": "tar xzf FILE",
    ".bz2": "bunzip2 FILE",
    ".xz": "unxz FILE",
    ".zst": "zstd -d FILE",
    ".lz4": "lz4 -d FILE",
    ".lzma": "unlzma FILE",
    ".z": "uncompress FILE",
    ".sz": "snzip -d FILE",
    ".zip": "unzip FILE",
    ".7z": "7z x FILE",
    ".tar": "tar xf FILE",
}
"""How files are unpacked, by the end of their names."""


def _packed(what: str, suffix: str) -> str:
    return f"is compressed with {what}; unpack it: `{PACKED[suffix]}`"


_MAGIC = {
    b"\x1f\x8b": _packed("gzip", ".gz"),
    **{b"BZh%d1AY&SY" % level: _packed("bzip2", ".bz2") for level in range(1, 10)},
    b"\xfd7zXZ\x00": _packed("xz", ".xz"),
    b"\x28\xb5\x2f\xfd": _packed("zstd", ".zst"),
    b"\x04\x22\x4d\x18": _packed("lz4", ".lz4"),
    b"\x5d\x00\x00": _packed("LZMA", ".lzma"),
    b"\x1f\x9d": _packed("compress", ".z"),
    b"\xff\x06\x00\x00sNaPpY": _packed("snappy", ".sz"),
    b"7z\xbc\xaf\x27\x1c": _packed("7-Zip", ".7z"),
    b"PK\x03\x04": "is a zip archive or an Excel workbook; store the files themselves, and a sheet"
    " as csv",
    b"\xd0\xcf\x11\xe0": "is an old Office document; save the sheet as csv",
    b"\xff\xfe\x00\x00": "is UTF-32; save it as UTF-8",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer, not the data; run `git lfs pull`",
    b"<!DOCTYPE": "is a web page, not data; use the address of the raw file",
    b"<!doctype": "is a web page, not data; use the address of the raw file",
    b"<html": "is a web page, not data; use the address of the raw file",
    b"<?xml": "is XML; convert it to jsonl",
    b"%PDF-": "is a PDF document; extract its text into jsonl",
    b"ARROW1\x00\x00": "is an Arrow file; save it as parquet, as `Dataset.to_parquet` does",
    b"\xff\xff\xff\xff": "is an Arrow stream, as `Dataset.save_to_disk` writes it; save it as"
    " parquet with `Dataset.to_parquet`",
    b"Obj\x01": "is Avro; save it as parquet",
    b"\x89HDF": "is HDF5; save it as parquet",
    b"SQLite format 3\x00": "is an SQLite database; export its table as csv",
    b"\x80\x04": "is a pickle, which isn't opened; save it as parquet or jsonl",
    b"\x80\x05": "is a pickle, which isn't opened; save it as parquet or jsonl",
}


def wrong_kind(file: SourceFile) -> str | None:
    """What a file is, where it can't be read as its format; else None."""
    with file.path.open("rb") as stream:
        head = stream.read(512)
        size = stream.seek(0, 2)
        stream.seek(max(size - 4, 0))
        tail = stream.read(4)
    if head.startswith(b"PAR1"):
        if file.format == "parquet":
            return None
        return f"the file is parquet, but format says {file.format}; set format: parquet"
    for magic, meaning in _MAGIC.items():
        if head.startswith(magic):
            return f"the file {meaning}"
    if head.startswith(b"ORC") and tail.startswith(b"ORC"):
        return "the file is ORC; save it as parquet"
    if _has_two_bytes_each(head):
        return "the file is UTF-16; save it as UTF-8"
    place, mark = _TAR_MARK
    if head[place : place + len(mark)] == mark:
        return f"the file is a tar archive; unpack it: `{PACKED['.tar']}`"
    return None


def _has_two_bytes_each(head: bytes) -> bool:
    """Whether it is UTF-16 without the mark that begins such a file: every other byte is 0."""
    zeros = sorted((head[0::2].count(0), head[1::2].count(0)))
    return zeros[0] * 10 <= len(head) < zeros[1] * 3


def delimiter_of(path: Path) -> str:
    """What separates the cells of a csv file: commas, unless its header has none and another.

    The other must cut the first rows as it cuts the header, or stand in a first line for it.
    """
    with path.open("rb") as stream:
        first = stream.readline(16).decode("utf-8-sig", errors="replace")
    if said := DELIMITER_LINE.match(first):
        return said[1]
    fitting = [each for each in DELIMITERS if _fits(path, each)]
    if COMMA in fitting or len(_head(path, COMMA)[0]) > 1:
        return COMMA
    return fitting[0] if len(fitting) == 1 else COMMA


def named(delimiter: str) -> str:
    """A delimiter for a message."""
    names = {COMMA: "commas", "\t": "tabs", " ": "spaces"}
    return names.get(delimiter, repr(delimiter))


def _fits(path: Path, delimiter: str) -> bool:
    header, *rows = _head(path, delimiter)
    return len(header) > 1 and all(len(row) == len(header) for row in rows)


def _head(path: Path, delimiter: str) -> list[list[str]]:
    """The header and first rows, as far as they can be read; at least an empty header."""
    with path.open("rb") as stream:
        data = stream.read(_SAMPLE_BYTES)
    if len(data) == _SAMPLE_BYTES:
        data = data[: data.rfind(b"\n") + 1]
    lines = data.decode("utf-8-sig", errors="replace").splitlines(keepends=True)
    rows: list[list[str]] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter, strict=True):
            if row:
                rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except csv.Error:
        # The sample may end within quotes.
        rows = rows[:1]
    return list(islice(rows, _SAMPLE_ROWS)) or [[]]
