"""Answers of HTTP servers off the wire: bounded in bytes, packed and unpacked, and in time.

The two ways in: coroutines on aiohttp, and threads on urllib3 for the package of CML. Both count
while they read and let go of the connection when an answer is refused, with the rest unread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import aiohttp

from kubetune.api.bounded import ANSWER, ROOM, LimitError, Limits, Room, Unpacker

ACCEPT_ENCODING = "gzip, deflate"
ROOM_PAUSE_SECONDS = 0.05
_STEP = 2**20
_PIECE = 64 * 1024


async def body(
    response: aiohttp.ClientResponse, limits: Limits = ANSWER, room: Room = ROOM
) -> bytes:
    """The body of an answer to a session with ``auto_decompress=False``.

    Raises LimitError, ValueError when it can't be unpacked, and what aiohttp raises. The caller
    limits the time.
    """
    _check_length(response.content_length, limits)
    unpacker = Unpacker(response.headers.get("Content-Encoding", ""), limits)
    found = bytearray()
    with _held(room, found) as held:
        async for piece in response.content.iter_any():
            found += unpacker.feed(piece)
            # Others let go of theirs within seconds, and the caller's own time ends.
            enough = partial(held.enough, len(found))
            for _ in iter(enough, True):
                await asyncio.sleep(ROOM_PAUSE_SECONDS)
    return bytes(found)


def body_in_thread(
    response: Any, deadline: float, limits: Limits = ANSWER, room: Room = ROOM
) -> bytes:
    """The body of an answer of urllib3 that nothing was read of, until a time of the clock.

    Raises LimitError, ValueError, TimeoutError, and what urllib3 raises.
    """
    headers: Any = response.headers
    length = str(headers.get("Content-Length", ""))
    _check_length(int(length) if length.isdecimal() and len(length) < 20 else None, limits)
    unpacker = Unpacker(str(headers.get("Content-Encoding", "")), limits)
    found = bytearray()
    with _held(room, found) as held:
        while piece := response.read1(_PIECE, decode_content=False):
            found += unpacker.feed(piece)
            while not held.enough(len(found)):
                time.sleep(ROOM_PAUSE_SECONDS)
                _check_time(deadline)
            _check_time(deadline)
    return bytes(found)


def _check_length(length: int | None, limits: Limits) -> None:
    if length is not None and length > limits.received:
        raise LimitError("received", limits.received, length)


def _check_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError("the answer did not end in time")


class _Held:
    """What one answer holds of the room that all share."""

    def __init__(self, room: Room) -> None:
        self.amount = 0
        self._room = room

    def enough(self, needed: int) -> bool:
        """Whether there is room for so many bytes; takes more where that is needed."""
        while needed > max(self.amount, self._room.free):
            if not self._room.take(_STEP):
                return False
            self.amount += _STEP
        return True


@contextmanager
def _held(room: Room, found: bytearray) -> Generator[_Held]:
    held = _Held(room)
    try:
        yield held
    except BaseException:
        # Whoever keeps the error keeps what was read so far, too.
        found.clear()
        raise
    finally:
        room.give_back(held.amount)
