"""The end of a storm as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.chaos.storm.counting import Count

COUNTS = (
    ("jobs", "jobs"),
    ("made", "made"),
    ("removed", "doubles"),
    ("runs", "runs"),
    ("at once", "most_active"),
    ("versions", "versions"),
    ("moves", "moves"),
    ("left", "left"),
    ("flaps", "flaps"),
    ("wrong", "wrong"),
)


def counts(found: Sequence[Count]) -> str:
    """One line for each target."""
    rows = [["target", *(title for title, _ in COUNTS)]]
    for each in found:
        values = [getattr(each, field) for _, field in COUNTS]
        rows.append([each.target, *(str(len(v) if isinstance(v, list) else v) for v in values)])
    return _table(rows)


def outages(found: Mapping[str, Sequence[float]]) -> str:
    """One line for each fault."""
    rows = [["fault", "times", "longest outage"]]
    for fault, seconds in sorted(found.items()):
        longest = f"{max(seconds):.1f} s" if max(seconds) else "-"
        rows.append([fault, str(len(seconds)), longest])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
