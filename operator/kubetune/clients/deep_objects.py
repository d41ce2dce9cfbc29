"""Objects whose values nest too deeply for the readers of lists and watches, cut before they read.

The API server takes thousands of levels where a schema leaves the form of a value open. Python's
readers give up at some, with the whole list or watch: one object would hide all others. So what
nests too deeply is cut out of its object, which is told by its spec: see NESTED.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_DEPTH = 100
"""Levels of a whole answer: no honest object has half of them."""
NESTED = "nestedTooDeeply"
"""The only field of a spec that was cut; no kind has one of this name."""
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_CUT_SPEC = b'{"' + NESTED.encode() + b'":true}'


def nests_deeply(data: bytes) -> bool:
    """Whether a text may nest too deeply. Cheap: each pass removes one or two levels at once."""
    rest = data.translate(None, _OTHERS)
    for _ in range(MAX_DEPTH // 2):
        inner = rest.replace(b"[]", b"").replace(b"{}", b"")
        if len(inner) == len(rest):
            # Brackets of texts are left.
            return len(rest) > MAX_DEPTH // 2
        rest = inner
    return bool(rest)


class _Open(NamedTuple):
    start: int
    key: bytes
    """The last text before it, which is its name within an object."""


def cut(data: bytes) -> bytes:
    """A list, an object or an event of a watch without the fields that nest too deeply."""
    found: list[bytes] = []
    done, key = 0, b""
    around: list[_Open] = []
    too_deep = 0
    """The depth at which the field begins that is cut; 0 while none is."""
    for token in _TOKEN.finditer(data):
        mark = token[0]
        if mark in (b"[", b"{"):
            around.append(_Open(token.start(), key))
            if not too_deep and len(around) > MAX_DEPTH:
                too_deep = _field(around)
        elif mark in (b"]", b"}"):
            if too_deep and len(around) == too_deep:
                field = around[-1]
                instead = _CUT_SPEC if field.key == b'"spec"' else b"null"
                found += [data[done : field.start], instead]
                done, too_deep = token.end(), 0
            if around:
                around.pop()
        else:
            key = mark
    return b"".join([*found, data[done:]])


def _field(around: list[_Open]) -> int:
    """At which depth the field of an object begins that these values are in."""
    outer = around[1].key
    of_object = {b'"items"': 3, b'"object"': 2}.get(outer, 1)
    named = around[of_object].key
    return of_object + (2 if named == b'"metadata"' else 1)
