"""Reads the log files that shims write: the end of one, since a time, or as it grows."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

_BLOCK = 64 * 1024
_POLL = 0.1
"""Seconds between looks at a log that is being followed."""


@dataclass
class LogOptions:
    """What `kubectl logs` asks for."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    """Only this many of the last lines."""
    since: str = ""
    """Only lines whose stamp is not before this one, in the log's own format."""
    limit: int | None = None
    """At most this many bytes."""

    @classmethod
    def parse(cls, query: dict[str, str]) -> "LogOptions":
        """From the query of a containerLogs request. Raises ValueError."""
        since = ""
        if text := query.get("sinceSeconds"):
            since = _stamp(datetime.now(UTC) - timedelta(seconds=int(text)))
        elif text := query.get("sinceTime"):
            since = _stamp(datetime.fromisoformat(text).astimezone(UTC))
        return cls(
            follow=query.get("follow") == "true",
            timestamps=query.get("timestamps") == "true",
            tail=int(query["tailLines"]) if query.get("tailLines") else None,
            since=since,
            limit=int(query["limitBytes"]) if query.get("limitBytes") else None,
        )


async def read(
    folder: Path, options: LogOptions, running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield the log's text in blocks; following, until the container no longer runs."""
    left = options.limit
    async for block in _blocks(folder, options, running):
        text = b"".join(_show(line, options) for line in block)
        if left is not None:
            text = text[:left]
            left -= len(text)
        if text:
            yield text
        if left == 0:
            return


def last_text(folder: Path, lines: int, limit: int) -> str:
    """The end of the log as text: at most that many lines and bytes."""
    path = folder / "log"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(_tail(path, lines)[0])
        shown = b"".join(_show(line, LogOptions()) for line in file.read().split(b"\n") if line)
    return shown[-limit:].decode(errors="ignore")


async def _blocks(
    folder: Path, options: LogOptions, running: Callable[[], bool]
) -> AsyncIterator[list[bytes]]:
    """Yield complete lines; goes on with `log` when the file at hand has become `log.1`."""
    path = folder / "log"
    while not path.exists():
        if not (options.follow and running()):
            return
        await asyncio.sleep(_POLL)
    file = _open_at_start(path, options.tail)
    pending = b""
    try:
        while True:
            # Asked before reading: what was written until then is then read for sure.
            growing = options.follow and running()
            replaced = path.exists() and not os.path.samestat(path.stat(), os.fstat(file.fileno()))
            while data := file.read(_BLOCK):
                *lines, pending = (pending + data).split(b"\n")
                yield lines
                await asyncio.sleep(0)  # a long log must not hold up the rest of the node
            if replaced:
                file.close()
                file = path.open("rb")
            elif not growing:
                return
            else:
                await asyncio.sleep(_POLL)
    finally:
        file.close()


def _open_at_start(path: Path, tail: int | None) -> BinaryIO:
    """Open `log`, or `log.1` if the lines asked for begin there, at the first of them."""
    older = path.with_name("log.1")
    offset, found = (0, 0) if tail is None else _tail(path, tail)
    if older.exists() and (tail is None or found < tail):
        path = older
        offset = 0 if tail is None else _tail(older, tail - found)[0]
    file = path.open("rb")
    file.seek(offset)
    return file


def _tail(path: Path, lines: int) -> tuple[int, int]:
    """Offset of the last `lines` lines and how many there are; reads backwards in blocks."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        if lines <= 0:
            return position, 0
        found = 0
        while position > 0:
            start = max(0, position - _BLOCK)
            file.seek(start)
            block = file.read(position - start)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                found += 1
                if found > lines:  # the newline before the first line asked for
                    return start + at + 1, lines
            position = start
    return 0, found


def _show(line: bytes, options: LogOptions) -> bytes:
    """What the user sees of a line of the log; nothing if it is too old."""
    stamp, _, rest = line.partition(b" ")
    if stamp.decode() < options.since:
        return b""
    _, flag, text = rest.split(b" ", 2)
    end = b"\n" if flag == b"F" else b""
    return (stamp + b" " if options.timestamps else b"") + text + end


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
