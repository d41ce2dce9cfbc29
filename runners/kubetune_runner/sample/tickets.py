"""Support tickets with the routing line that a model should learn to write.

The answer follows from product, complaint and urgency by fixed rules, so predictions can be
graded by exact match. Which tickets are held out is decided by product and complaint
together: a held-out ticket always shows a pair that no training ticket shows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import product as combinations
from pathlib import Path

PRODUCT_QUEUES = {
    "router": "network",
    "modem": "network",
    "phone": "mobile",
    "tablet": "mobile",
    "laptop": "computer",
    "printer": "office",
    "scanner": "office",
    "camera": "imaging",
    "monitor": "imaging",
    "keyboard": "computer",
}
COMPLAINT_PRIORITIES = {
    "does not work": "high",
    "is broken": "high",
    "stopped responding": "high",
    "is very slow": "normal",
    "shows an error": "normal",
    "makes a strange noise": "low",
}
OPENERS = ("My", "Hello, my", "The new", "Please help, the", "Since Monday my", "Our")
CLOSERS = ("", " again", " today", " after the update", " since this morning", " at home")
HELD_OUT_EVERY = 7


def tickets(rows: int, *, held_out: bool = False, seed: int = 42) -> list[dict[str, str]]:
    """Up to ``rows`` tickets as prompt and completion; the same for the same seed.

    Raises ValueError when fewer different tickets exist than asked for.
    """
    found = list(_all_tickets(held_out))
    if rows > len(found):
        raise ValueError(f"{rows} rows: only {len(found)} different tickets exist; ask for fewer")
    random.Random(seed).shuffle(found)  # noqa: S311 - not a secret
    return found[:rows]


def write_tickets(path: Path, rows: int, *, held_out: bool = False, seed: int = 42) -> None:
    """Write tickets as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(ticket) for ticket in tickets(rows, held_out=held_out, seed=seed))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _all_tickets(held_out: bool) -> Iterator[dict[str, str]]:
    pairs = combinations(enumerate(PRODUCT_QUEUES.items()), enumerate(COMPLAINT_PRIORITIES.items()))
    for (row, (item, queue)), (column, (complaint, priority)) in pairs:
        # A diagonal of the table: every product and every complaint is seen in training,
        # only their combination isn't.
        if ((row + column) % HELD_OUT_EVERY == 0) != held_out:
            continue
        for opener, closer in combinations(OPENERS, CLOSERS):
            yield {
                "prompt": f"{opener} {item} {complaint}{closer}.",
                "completion": f" queue={queue} priority={priority} product={item}",
            }
