"""Keys that only the operator has, and what it proves with them.

Whoever sees a name, a label or a status may write the same: what is only to be believed when the
operator has made it carries a code that nobody else can compute.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from functools import lru_cache

KEY_BYTES = 32
CODE_LENGTH = 32
"""Hexadecimal digits of a code: 128 bits."""
LONGEST_REMEMBERED = 512
"""Characters of what a code is over: a plan's content is longer."""
MOST_REMEMBERED = 8192
"""Half a kilobyte each, at most."""


@dataclass(frozen=True)
class Keyring:
    """Keys by their ids, the newest last. While keys are changed there are two."""

    keys: tuple[tuple[str, bytes], ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("a keyring needs a key")

    def code(self, purpose: str, *parts: str) -> str:
        """A code over parts, with the newest key."""
        return _code(self.keys[-1][1], purpose, parts)

    def lasting_code(self, purpose: str, *parts: str) -> str:
        """The same with the oldest key: it stays as it is while a newer one is brought in."""
        return _code(self.keys[0][1], purpose, parts)

    def all_codes(self, purpose: str, *parts: str) -> tuple[str, ...]:
        """The code of each key, the oldest first."""
        return tuple(_code(key, purpose, parts) for _, key in self.keys)

    def seeds(self, purpose: str) -> tuple[bytes, ...]:
        """Secret bytes of each key for another key of its own, the oldest first."""
        return tuple(
            hmac.digest(key, f"seed of {purpose}".encode(), "sha256") for _, key in self.keys
        )

    def verifies(self, code: str, purpose: str, *parts: str, length: int = CODE_LENGTH) -> bool:
        """Whether a code of this length was made over these parts with any key."""
        given = code.encode(errors="replace")
        return len(code) == length and any(
            hmac.compare_digest(given, _code(key, purpose, parts)[:length].encode())
            for _, key in self.keys
        )


def _code(key: bytes, purpose: str, parts: tuple[str, ...]) -> str:
    """Marks and run keys are asked for at each look at an object: those are remembered."""
    if sum(map(len, parts)) > LONGEST_REMEMBERED:
        return _computed(key, purpose, parts)
    return _remembered(key, purpose, parts)


def _computed(key: bytes, purpose: str, parts: tuple[str, ...]) -> str:
    found: list[bytes] = []
    for part in (purpose, *parts):
        encoded = part.encode()
        # With their borders kept.
        found += (len(encoded).to_bytes(8, "big"), encoded)
    # In one call, which takes a quarter of the time of several: marks are checked at each look.
    return hmac.digest(key, b"".join(found), "sha256").hex()[:CODE_LENGTH]


_remembered = lru_cache(MOST_REMEMBERED)(_computed)
