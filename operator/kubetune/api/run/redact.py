"""Keeps credentials out of what is logged and reported of runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.I)
_SHAPES = re.compile(
    r"(?<=://)[^/\s@]+(?=@)"
    r"|\bhf_[A-Za-z0-9]{8,}|\bAKIA[A-Z0-9]{16}|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|(?<=Bearer )\S+"
)
_SHORTEST = 6
"""Values below it are words rather than secrets."""
HIDDEN = "***"


def redactor(environment: Mapping[str, str]) -> Callable[[str], str]:
    """A function that hides the values of secret variables, and what looks like a credential."""
    values = {
        value
        for name, value in environment.items()
        if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST and not value.startswith("/")
    }
    # A secret may hold another one.
    known = sorted(values, key=len, reverse=True)
    exact = re.compile("|".join(re.escape(value) for value in known)) if known else None

    def redact(text: str) -> str:
        if exact is not None:
            text = exact.sub(HIDDEN, text)
        return without_credentials(text)

    return redact


def without_credentials(text: str) -> str:
    """The text with what has the shape of a credential hidden, where no values are known."""
    return _SHAPES.sub(HIDDEN, text)
