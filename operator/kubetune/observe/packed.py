"""Objects that are over, kept as compressed text: a tenth of the room that they take as maps.

Most of what an operator knows of is finished. It is looked at when it is changed or deleted, when
something names it, and at a start; in between nobody reads it.
"""

from __future__ import annotations

import json
import zlib
from typing import NamedTuple, cast

from kubetune.api import JsonObject
from kubetune.api.conditions import TERMINAL_PHASES
from kubetune.clients.pods import condition, is_live

LEVEL = 1
"""The fastest: what objects have in common is in the sample, and the rest is digests and times."""
MAX_SAMPLE = 32_768
"""Bytes that zlib looks back."""


class Packed(NamedTuple):
    """An object as compressed text, with what the cache asks of each."""

    text: bytes
    sample: bytes
    """What the text was compressed with: another object of the kind."""
    uid: str
    version: int
    owner: str | None
    """The uid of its controlling owner."""


class Packer:
    """Packs objects, each with the first one of its kind as the sample."""

    def __init__(self) -> None:
        self._samples: dict[str, bytes] = {}

    def pack(self, body: JsonObject, version: int, owner: str | None = None) -> Packed:
        """The object without what isn't read of it."""
        text = json.dumps(body, separators=(",", ":")).encode()
        sample = self._samples.setdefault(body["kind"], text[:MAX_SAMPLE])
        packing = zlib.compressobj(LEVEL, zdict=sample)
        packed = packing.compress(text) + packing.flush()
        return Packed(packed, sample, body["metadata"]["uid"], version, owner)


def unpack(packed: Packed) -> JsonObject:
    """The object, another copy each time."""
    return cast(
        "JsonObject", json.loads(zlib.decompressobj(zdict=packed.sample).decompress(packed.text))
    )


def is_over(body: JsonObject) -> bool:
    """Whether nothing more is expected to happen to a FineTuneJob, a Job or a pod."""
    if "deletionTimestamp" in body["metadata"]:
        return False
    match body["kind"]:
        case "FineTuneJob":
            return (body.get("status") or {}).get("phase") in TERMINAL_PHASES
        case "Job":
            return bool(condition(body, "Complete") or condition(body, "Failed"))
        case "Pod":
            return not is_live(body)
        case _:
            return False
