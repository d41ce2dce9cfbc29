"""What a spec says of the objects that it names: read by the operator from the text as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """A field that names an object.

    ``path`` leads to it from the spec, with a dot between fields and ``[]`` after a list:
    ``candidates[].modelRef``. The field is a map with ``name``, and ``kind`` where several kinds
    can be named, or the name itself.
    """

    path: str
    kind: str
    """The kind that is named, where the field doesn't say so."""
    or_default: bool = False
    """Without the field, any object of the kind may be meant: whichever is the default."""

    def named_in(self, spec: Any) -> Iterator[tuple[str, str]]:
        """Kind and name of what a spec names here.

        Raises AttributeError, KeyError or TypeError where it isn't what its schema says.
        """
        for value in _values(spec, self.path.split(".")):
            if isinstance(value, str):
                yield self.kind, value
            else:
                yield value.get("kind", self.kind), value["name"]


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
        return
    field, rest = path[0].removesuffix("[]"), path[1:]
    inner = value.get(field)
    if not inner:
        return
    for item in inner if path[0].endswith("[]") else (inner,):
        yield from _values(item, rest)
