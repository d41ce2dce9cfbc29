"""Figures of the bench and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One measured value and, where there is one, what it may be at most."""

    name: str
    value: float
    unit: str
    budget: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Within or over the budget; empty without one."""
        if self.budget is None:
            return ""
        return "ok" if self.value <= self.budget else "OVER"


def as_json(figures: Sequence[Figure]) -> str:
    """All figures as a JSON list."""
    rows = [asdict(figure) | {"verdict": figure.verdict} for figure in figures]
    return json.dumps(rows, indent=2)


def as_table(figures: Sequence[Figure]) -> str:
    """All figures as a table for people."""
    rows = [("measure", "value", "budget", "", "note")]
    for figure in figures:
        value = f"{figure.value:.3g} {figure.unit}".rstrip()
        if figure.value >= 1000:
            value = f"{figure.value:,.0f} {figure.unit}".rstrip()
        budget = f"{figure.budget:g}" if figure.budget is not None else ""
        rows.append((figure.name, value, budget, figure.verdict, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)] + [row[4]]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
