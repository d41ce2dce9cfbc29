"""The one way in for bytes that others have made: bounded before anything is made of them.

Answers of servers, outcomes of runs, files of projects and YAML of users are of any size and shape.
A few hundred bytes may unpack to gigabytes, expand to millions of values or nest too deeply for a
reader that calls itself. So each is counted while it comes in, unpacked and parsed, and refused at
its limit: the refusal says which limit it was, and concerns the one object whose bytes these are.

``kubetune.clients.answers`` reads off the wire with it. A test finds whoever reads around it.
"""

from __future__ import annotations

import base64
import binascii
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import from_json

M = TypeVar("M", bound=BaseModel)

PARSER_DEPTH = 200
"""So deep the JSON parser nests before it refuses. What gets into objects nests less: they are read
by the same parser, around what was taken in."""
_GZIP_OR_ZLIB = 47
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Limits:
    """How much of something is read."""

    received: int
    """Bytes as they come, packed where they are."""
    unpacked: int
    """Bytes once they are unpacked."""
    nodes: int
    """Values in the document: a list counts, and each of its items. Aliases count in full."""
    depth: int = PARSER_DEPTH
    """Values within values."""


ANSWER = Limits(received=8 * 2**20, unpacked=8 * 2**20, nodes=300_000)
"""One answer of an API: a page of a list, at most."""
OUTCOME = Limits(received=256 * 1024, unpacked=256 * 1024, nodes=20_000, depth=64)
"""What a run leaves behind: a termination message has 4 KiB, a file of a project may have more."""
NOTE = Limits(received=512 * 1024, unpacked=512 * 1024, nodes=50_000, depth=64)
"""A tag, an annotation or another text of a few lines that holds a document."""
PLAN = Limits(received=4 * 2**20, unpacked=16 * 2**20, nodes=500_000)
"""The document of a run, as the operator has written it."""
SETTINGS = Limits(received=64 * 1024, unpacked=64 * 1024, nodes=10_000, depth=64)
"""A configuration that somebody has written by hand."""
MANIFESTS = Limits(received=64 * 2**20, unpacked=64 * 2**20, nodes=2_000_000, depth=PARSER_DEPTH)
"""Files on the command line of the person whose memory it is."""
DOCUMENT = Limits(received=64 * 2**20, unpacked=64 * 2**20, nodes=5_000_000)
"""A file that describes a model or data, as a run finds it in a repository or on a volume."""


class LimitError(ValueError):
    """More than is read: ``limit`` names which of Limits, ``allowed`` says how much is."""

    def __init__(self, limit: str, allowed: int, found: int | None = None) -> None:
        what = {
            "received": "bytes",
            "unpacked": "bytes once it is unpacked",
            "nodes": "values",
            "depth": "levels of values within values",
        }[limit]
        if found is None:
            message = f"it has more than {allowed:,} {what}, and no more are read"
        else:
            message = f"it has {found:,} {what}, and at most {allowed:,} are read"
        super().__init__(message)
        self.limit = limit
        self.allowed = allowed


class PackedError(ValueError):
    """Bytes that are packed in a way that isn't read, or not whole."""


def check_size(data: bytes | bytearray | str, limits: Limits) -> None:
    """Raises LimitError."""
    if len(data) > limits.unpacked:
        raise LimitError("unpacked", limits.unpacked, len(data))


def json_value(data: bytes | bytearray | str, limits: Limits = ANSWER) -> Any:
    """The value of a JSON text. Raises LimitError, and ValueError when it isn't JSON."""
    text = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    check_size(text, limits)
    # Never too few: what stands in texts counts too. To count exactly would take a parser.
    nodes = 1 + sum(text.count(mark) for mark in (b",", b"[", b"{"))
    if nodes > limits.nodes:
        raise LimitError("nodes", limits.nodes, nodes)
    try:
        value = from_json(text)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise LimitError("depth", limits.depth) from None
        raise ValueError(f"it is not JSON: {error}") from None
    if limits.depth < PARSER_DEPTH and _nests_deeper(value, limits.depth):
        raise LimitError("depth", limits.depth)
    return value


def _nests_deeper(value: Any, depth: int) -> bool:
    """Whether lists and maps are within more than so many; level by level, as recursion ends."""
    level = [value]
    for _ in range(depth):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(cast("dict[str, Any]", item).values())
            elif isinstance(item, list):
                inner.extend(cast("list[Any]", item))
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def json_object(data: bytes | bytearray | str, limits: Limits = ANSWER) -> dict[str, Any]:
    """The same where only an object will do."""
    value = json_value(data, limits)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return cast("dict[str, Any]", value)


def json_file(path: Path, limits: Limits = DOCUMENT) -> Any:
    """The value of a JSON file. Raises LimitError, ValueError and OSError."""
    return json_value(file_bytes(path, limits), limits)


def model_value(model: type[M], text: str, limits: Limits) -> M:
    """What a model makes of a JSON text. Raises LimitError and ValueError."""
    json_value(text, limits)
    return model.model_validate_json(text, extra="ignore")


def float_of(value: object) -> float | None:
    """A number, when it is one that can be calculated with: JSON has larger ones."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def file_bytes(path: Path, limits: Limits = DOCUMENT) -> bytes:
    """The content of a file, which may grow while it is read. Raises LimitError and OSError."""
    with path.open("rb") as stream:
        data = stream.read(limits.received + 1)
    if len(data) > limits.received:
        raise LimitError("received", limits.received)
    return data


def file_text(path: Path, limits: Limits = DOCUMENT, errors: str = "strict") -> str:
    """The same as text, which is UTF-8."""
    return file_bytes(path, limits).decode("utf-8", errors)


class Unpacker:
    """Takes in the bytes of an answer as they come, and gives them unpacked.

    ``encoding`` is the answer's Content-Encoding. What nobody has asked for is refused.
    """

    def __init__(self, encoding: str, limits: Limits) -> None:
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise PackedError(f"it is packed in a way that nobody has asked for: {name[:40]!r}")
        self._packed = name not in ("", "identity")
        self._limits = limits
        self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._received = 0
        self.unpacked = 0
        """Bytes given so far."""

    def feed(self, data: bytes) -> bytes:
        """More of the answer. Raises LimitError, and ValueError when it can't be unpacked."""
        self._received += len(data)
        if self._received > self._limits.received:
            raise LimitError("received", self._limits.received)
        if self._packed:
            data = self._inflated(data)
        self.unpacked += len(data)
        if self.unpacked > self._limits.unpacked:
            raise LimitError("unpacked", self._limits.unpacked)
        return data

    def _inflated(self, data: bytes) -> bytes:
        room = self._limits.unpacked - self.unpacked + 1
        found: list[bytes] = []
        try:
            while data and room > 0:
                piece = self._decompressor.decompress(data, room)
                found.append(piece)
                room -= len(piece)
                if not self._decompressor.eof:
                    break
                # Several packed pieces, one after the other, are one text.
                data = self._decompressor.unused_data
                self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
        except zlib.error:
            raise PackedError("it says that it is packed and can't be unpacked") from None
        return b"".join(found)


def inflated(data: bytes, limits: Limits) -> bytes:
    """What zlib has packed. Raises LimitError, and ValueError when it isn't whole."""
    if len(data) > limits.received:
        raise LimitError("received", limits.received, len(data))
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(data, limits.unpacked + 1)
    except zlib.error:
        raise ValueError("it can't be unpacked") from None
    if len(found) > limits.unpacked:
        raise LimitError("unpacked", limits.unpacked)
    if not decompressor.eof:
        raise ValueError("it can't be unpacked: its end is missing")
    return found


def decoded(text: str, limits: Limits, how: Callable[[str], bytes] = base64.b64decode) -> bytes:
    """Bytes that were written as text. Raises LimitError and ValueError."""
    if len(text) > 2 * limits.received:
        raise LimitError("received", limits.received, len(text))
    try:
        return how(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is not what it should be written as: {error}") from None


class Room:
    """How many bytes of others the process holds at one time, over all that are being read.

    Small answers need no room. Who finds none waits, and gives up when its own time is over.
    """

    def __init__(self, total: int, free: int = 256 * 1024) -> None:
        self._left = total
        self._lock = threading.Lock()
        self.free = free
        """Bytes that everybody may hold."""

    def take(self, amount: int) -> bool:
        """Whether there was room for more."""
        with self._lock:
            if amount > self._left:
                return False
            self._left -= amount
            return True

    def give_back(self, amount: int) -> None:
        """What was taken is let go."""
        with self._lock:
            self._left += amount


ROOM = Room(64 * 2**20)
"""The operator's."""
