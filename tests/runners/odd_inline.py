"""Odd rows in a manifest: what YAML or JSON has, and what the API server makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from kubetune.api.rows import FORMAT_ROLES, DatasetFormat
from odd_chats import TEMPLATES, Chat, chats
from odd_data import TEXTS, VALUES, Row
from odd_preferences import meant, spoken, texts
from odd_texts import says

from tests.stored_rows import stored

SPOKEN: tuple[DatasetFormat, ...] = ("messages", "preference", "unpairedPreference")

HALF_PAIRS = st.sampled_from(["\ud83d", "a\udc00b", "\ud83d\ud83d\ude00"])
LOST = st.sampled_from(["\ufffd", "na\ufffdve"])
LARGE = st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**20, 1e19, 1e21, -1e300])
FLOATS = st.sampled_from([1.0, -0.0, 1.10, 1e16, 0.1 + 0.2, 5e-324, 1e-7, 123456789.0])
DATES = st.sampled_from(["2026-01-01", "12:30:00", "2026-01-01T00:00:00Z", "0x1F", "1_000", "yes"])
LONG = st.sampled_from(["x" * 20_000, "é" * 9_000])
DEEP = st.integers(90, 120).map(lambda depth: json.loads("[" * depth + "1" + "]" * depth))
CELLS = st.one_of(TEXTS, VALUES, DATES, LARGE, FLOATS, HALF_PAIRS, LOST, LONG, DEEP)


def leaves(value: Any) -> list[Any]:
    """Names and values within a value, in the order in which they are stored."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: stored(item[0]))
        return [leaf for name, item in items for leaf in (name, *leaves(item))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def depth(value: Any) -> int:
    """Lists and maps in each other."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return 0
    return 1 + max((depth(item) for item in inner), default=0)


def is_lost(leaf: Any) -> bool:
    """Whether the API server keeps something else than was written, or may have done so."""
    if isinstance(leaf, str):
        return "\ufffd" in stored(leaf)
    return isinstance(leaf, int | float) and not -(2**63) <= leaf < 2**63


@dataclass
class Manifest:
    """Rows as they were written, and what they say."""

    format: str
    columns: Row
    rows: list[Row]
    said: list[Any]
    """Of a text each column as text, of a chat itself, of a preference its parts."""
    template: str = "shows all"
    beside: set[int] = field(default_factory=set[int])
    """Numbers of rows with a column that nobody reads."""
    spoilt: bool = False
    """Whether a character is lost before anybody sees it."""


OTHERS = st.dictionaries(st.sampled_from(["id", "", "meta", "\x00", "k" * 400]), CELLS, max_size=2)
BESIDE = st.sampled_from(
    [{"system": "Said by nobody."}, {"images": ["a.png"]}, {"history": [["Said by nobody."]]}]
)
MAPPED = st.sampled_from([{}, {0: "a b "}, {-1: "überschrift"}, {0: "question"}])


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Rows of any format."""
    formats: list[DatasetFormat] = ["text", "promptCompletion", *SPOKEN]
    format = draw(st.sampled_from(formats))
    roles = list(FORMAT_ROLES[format])
    columns: Row = {role: role for role in roles}
    columns |= {roles[at]: name for at, name in draw(MAPPED).items()}
    if format not in SPOKEN:
        rows = [_texts(draw, columns) for _ in range(draw(st.integers(1, 5)))]
        return Manifest(format, columns, rows, [[says(row.get(c)) for c in columns.values()]
                                                for row in rows])  # fmt: skip
    made = Manifest(format, columns, [], [], draw(st.sampled_from(["shows all", *TEMPLATES])))
    for _ in range(draw(st.integers(1, 4))):
        row, said = _spoken(draw, format)
        if not draw(st.integers(0, 5)):
            row |= draw(BESIDE)
            made.beside.add(len(made.rows) + 1)
            if isinstance(said, Chat):
                said.said.append("Said by nobody: stands in no text")
                said.odd = True
        if not draw(st.integers(0, 5)):
            row |= {name: cell for name, cell in draw(OTHERS).items() if name not in row}
        if not draw(st.integers(0, 15)):
            made.spoilt = _spoil(draw, row) or made.spoilt
        renamed = {columns.get(name, name): value for name, value in row.items()}
        made.rows.append(renamed)
        made.said.append(said)
    return made


def _texts(draw: st.DrawFn, columns: Row) -> Row:
    row: Row = dict(draw(OTHERS)) if not draw(st.integers(0, 3)) else {}
    for name in columns.values():
        if draw(st.integers(0, 9)):
            row[name] = draw(CELLS)
    return row


def _spoken(draw: st.DrawFn, format: str) -> tuple[Row, Any]:
    """A row of a chat or of a preference, and what it says."""
    if format == "messages":
        chat = draw(chats())
        if "conversations" in chat.row:
            chat.row["messages"] = chat.row.pop("conversations")
        _renumber(chat)
        return chat.row, chat
    source = draw(st.sampled_from([texts, spoken]))
    _, row, said = draw(source(format))
    return row, meant(format, stored(row)) if source is texts else said


def _renumber(chat: Chat) -> None:
    """A number is told by its digits, which may be others: 1.0 comes as 1."""
    numbers = [leaf for leaf in leaves(chat.row) if isinstance(leaf, int | float)]
    others = {json.dumps(leaf): json.dumps(stored(leaf)) for leaf in numbers}
    chat.said = [others.get(part, part) for part in chat.said]
    chat.learned = [others.get(part, part) for part in chat.learned]


def _spoil(draw: st.DrawFn, row: Row) -> bool:
    """Lose a character of something that is said."""
    places = [(name, value) for name, value in row.items() if value and isinstance(value, list)]
    if not places:
        return False
    _, turns = draw(st.sampled_from(places))
    turn = draw(st.sampled_from(turns))
    fields = turn if isinstance(turn, dict) else {}
    name = next((each for each in ("content", "value") if each in fields), None)
    if name is None:
        return False
    turn[name] = draw(HALF_PAIRS.filter(lambda text: "\ufffd" in stored(text)) | LOST)
    return True


def numbers_of_texts(manifest: Manifest) -> Iterator[int | float]:
    """Numbers where text belongs."""
    names = [name for role, name in manifest.columns.items() if role not in ("label", "messages")]
    names += ["prompt"] if manifest.format == "preference" else []
    for row in manifest.rows:
        for name in names:
            cell = row.get(name)
            if isinstance(cell, int | float) and not isinstance(cell, bool):
                yield cell
