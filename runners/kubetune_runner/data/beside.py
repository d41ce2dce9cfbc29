"""Columns beside what a row trains on that belong to it, and that nobody reads.

They are known by the names that data sets and trainers use. One whose text stands in what is read
says nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from kubetune.api.rows import DatasetFormat

from kubetune_runner.data.findings import quote
from kubetune_runner.data.items import Row
from kubetune_runner.data.turns import REASONING_NAMES

_SYSTEM = ("system", "system_prompt", "system_message", "history", "documents")
"""What stands before a question."""
_QUESTIONS = (
    *("prompt", "instruction", "instructions", "question", "query", "input", "inputs"),
    *("context", "passage"),
)
"""Parts of a question. A text has none, as it is whole."""
_BY_THEMSELVES = (
    *("tools", "functions", "chat_template_kwargs"),
    *("image", "images", "video", "videos", "audio", "audios"),
)
_MARGIN = "margin"
"""By how much one answer of a pair is better, which trl's reward models read."""
_VERDICTS = ("label", "kto_tag")
"""Whether the answer is good: training imitates one that is bad, too."""
_NOTHING = (None, "", "[]", "{}", "null")


@dataclass(frozen=True)
class Read:
    """What a row trains on: texts before the answers, and the answers."""

    asked: Sequence[str]
    answers: Sequence[str]


def beside(row: Row, format: DatasetFormat, columns: Collection[str], read: Read) -> list[str]:
    """What stands beside the ``columns`` that are read, in words."""
    return [
        f"column {quote(name)}"
        for name, value in row.items()
        if name not in columns and _is_lost(name.strip().lower(), value, format, read)
    ]


def _is_lost(name: str, value: Any, format: DatasetFormat, read: Read) -> bool:
    if name in _VERDICTS:
        return value is False and format in ("promptCompletion", "text", "messages")
    if name == _MARGIN:
        return format == "preference" and any(_texts(value))
    if name in _SYSTEM or name in _BY_THEMSELVES or (name in _QUESTIONS and format != "text"):
        return not _stand(_texts(value), read.asked)
    return name in REASONING_NAMES and not _stand(_texts(value), read.answers)


def _texts(value: Any) -> Iterator[str]:
    """What a cell says, part by part; names of fields and of speakers are no part of that."""
    if isinstance(value, dict):
        for field, item in cast("dict[str, Any]", value).items():
            if field not in ("role", "from"):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _texts(item)
    elif isinstance(value, str):
        if value.strip() not in _NOTHING:
            yield value.strip()
    elif value is not None:
        yield str(value)


def _stand(texts: Iterable[str], among: Sequence[str]) -> bool:
    """Whether each text stands in one of the others, as whole words."""
    return all(any(_stands(text, other) for other in among) for text in texts)


def _stands(text: str, other: str) -> bool:
    return text in other and bool(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", other))
