"""Reads YAML text as kubectl would, and refuses what two readers take for different things.

Python's usual reader follows YAML 1.1, where ``1e-4`` is text and ``yes`` is true. Here numbers
are those of YAML 1.2, times and dates stay text, a key may stand in a map only once, and what
kubectl takes for something else than a reader of YAML 1.2 is an error: an unquoted ``yes``,
``no``, ``on``, ``off``, ``y`` or ``n``, and ``010`` or ``1_000``. Every value keeps its line.

Nothing is made of a text before it is known how much would come of it: see kubetune.api.bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from kubetune.api.bounded import MANIFESTS, LimitError, Limits, check_size

Path = tuple[str | int, ...]

_TRUTH = re.compile(r"^(y|n|yes|no|on|off)$", re.IGNORECASE)
_NUMBER = re.compile(r"^[-+]?(0[0-9]+|0[bo][0-9_]+|0x[0-9a-f]*_[0-9a-f_]*|[0-9]+_[0-9_.]*)$", re.I)
_TAG = "tag:yaml.org,2002:"
_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("null", r"^(~|null|Null|NULL|)$", "~nN\0"),
    ("bool", r"^(true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^([-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$", "-+0123456789"),
    (
        "float",
        r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    ("merge", r"^<<$", "<"),
)


class YamlError(ValueError):
    """Text that is not acceptable YAML; ``line`` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass
class Document:
    """One YAML document as plain values."""

    value: Any
    line: int
    lines: dict[Path, int] = field(default_factory=dict[Path, int])
    """Line of each value by its path."""

    def line_of(self, path: Path) -> int:
        """The line of a value, or of the closest one around it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(_pattern), ["" if c == "\0" else c for c in _first]
    )


def read(text: str, limits: Limits = MANIFESTS) -> Iterator[Document]:
    """The documents of a text; empty ones are left out. Raises YamlError."""
    try:
        _check(text, limits)
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise _translated(error) from None
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            document = Document(None, _line(node))
            document.value = _Reader(loader, document).value(node, ())
            if document.value is not None:
                yield document
    except yaml.YAMLError as error:
        raise _translated(error) from None
    finally:
        loader.dispose()


def plain_value(text: str, limits: Limits) -> Any:
    """The value of a text as Python's usual reader takes it. Raises YamlError."""
    try:
        _check(text, limits)
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise _translated(error) from None
    except YamlError:
        raise
    except ValueError as error:
        # A date of no calendar, or a number of thousands of digits.
        raise YamlError(f"not YAML: {error}", 1) from None


def _check(text: str, limits: Limits) -> None:
    """Count what would come of a text, aliases as what they stand for.

    Raises YamlError and yaml.YAMLError. It looks at one event after the other, where to make
    values of them takes recursion.
    """
    nodes, line = 0, 1
    sizes: dict[Any, int] = {}
    around: list[tuple[str | None, int]] = []
    """Open values: their anchor, and how many values there were before."""
    try:
        check_size(text, limits)
        events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in around):
                    raise YamlError("a value that contains itself", line)
                nodes += sizes.get(event.anchor, 1)
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = around.pop()
                if anchor:
                    sizes[anchor] = nodes - before
            elif isinstance(event, yaml.NodeEvent):
                nodes += 1
                if isinstance(event, yaml.CollectionStartEvent):
                    around.append((event.anchor, nodes - 1))
                elif event.anchor:
                    sizes[event.anchor] = 1
            if nodes > limits.nodes:
                raise LimitError("nodes", limits.nodes)
            if len(around) > limits.depth:
                raise LimitError("depth", limits.depth)
    except LimitError as error:
        raise YamlError(
            f"{error}; shorten it, or write what its aliases repeat once", line
        ) from None


class _Reader:
    """Makes plain values of one document's nodes and notes their lines."""

    def __init__(self, loader: _Loader, document: Document) -> None:
        self._loader = loader
        self._document = document

    def value(self, node: Node, path: Path) -> Any:
        self._document.lines[path] = _line(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # there are only these three
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        self._refuse_duplicates(node)
        self._loader.flatten_mapping(node)  # << takes the keys of another map
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            result[key] = self.value(value_node, (*path, key))
            self._document.lines[(*path, key)] = _line(key_node)
        return result

    def _refuse_duplicates(self, node: MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            key = self._key(key_node)
            if key in seen:
                raise YamlError(
                    f"key {key!r} stands twice in one map, first on line {seen[key]}; remove one",
                    _line(key_node),
                )
            seen[key] = _line(key_node)

    def _key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode):
            raise YamlError("a key must be text", _line(node))
        if not isinstance(self._scalar(node), str):
            raise YamlError(f"a key must be text; quote it: '{node.value}'", _line(node))
        return node.value

    def _scalar(self, node: ScalarNode) -> Any:
        if not node.style:  # as plain text is
            self._refuse_ambiguous(node)
        if not node.tag.startswith(_TAG):
            raise YamlError(f"tag {node.tag} is not known here; remove it", _line(node))
        try:
            return self._loader.construct_object(node)
        except ValueError as error:
            raise YamlError(f"{node.value[:60]!r}: {error}", _line(node)) from None

    def _refuse_ambiguous(self, node: ScalarNode) -> None:
        text = node.value
        if _TRUTH.match(text):
            raise YamlError(
                f"unquoted {text} is a boolean to kubectl and text to others;"
                f" write true or false, or quote it: '{text}'",
                _line(node),
            )
        if _NUMBER.match(text):
            raise YamlError(
                f"unquoted {text} is one number to kubectl and something else to others;"
                f" write a plain decimal number, or quote it: '{text}'",
                _line(node),
            )


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def _translated(error: yaml.YAMLError) -> YamlError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        text = " ".join(part for part in (error.problem, error.context) if part)
        return YamlError(f"not YAML: {text}", mark.line + 1 if mark else 1)
    return YamlError(f"not YAML: {error}", 1)
