"""Keeps credentials out of what is logged and reported of the user's code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.I)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+@")
_KNOWN_SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,})")
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
        return _KNOWN_SHAPES.sub(HIDDEN, _IN_ADDRESS.sub(f"{HIDDEN}@", text))

    return redact
