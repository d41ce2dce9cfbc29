"""What is shown of texts that others wrote: statuses, events and logs are read by people and tools.

An address that somebody declares may lead to any server. What that answers may be somebody's
secret, a page of a log-in or made to deceive who reads it, so of an answer only the status is
told, and a message where the answer has the form of an error of the API that was asked.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, cast

from kubetune.api.bounded import NOTE, json_value
from kubetune.api.run.redact import without_credentials

MAX_MESSAGE = 300
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}([-.+]?[A-Za-z0-9][A-Za-z0-9.+-]{0,39})?")


def first_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """The first line that has something on it, escaped, without credentials, cut to a length."""
    lines = (line.strip() for line in text[: 16 * limit].splitlines())
    line = " ".join(next((line for line in lines if line), "").split())
    line = without_credentials("".join(map(_escaped, line[: 4 * limit])))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _escaped(character: str) -> str:
    """What isn't seen, or turns the direction of what is, by its number."""
    if character.isprintable() and unicodedata.category(character)[0] not in "CZ":
        return character
    return " " if character == " " else f"\\u{ord(character):04x}"


def answered(status: int, content_type: str = "", message: str = "") -> str:
    """An answer in a few words: the message of an error, else what kind of text there was."""
    if message := first_line(message):
        return f"HTTP {status}: {message}"
    kind = _CONTENT_TYPE.match(content_type)
    return f"HTTP {status} ({kind[0]})" if kind else f"HTTP {status}"


def version_in(text: str) -> str | None:
    """A version number, when the text is one and nothing else."""
    text = text[:200].strip()
    return text if _VERSION.fullmatch(text) else None


def error_fields(body: bytes | str) -> dict[str, Any]:
    """The fields of an answer that is a small JSON object, as errors of APIs are; else none."""
    try:
        value = json_value(body, NOTE)
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text_of(value: object) -> str:
    """A field that must be text."""
    return value if isinstance(value, str) else ""
