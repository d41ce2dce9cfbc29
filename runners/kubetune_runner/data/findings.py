"""What a reading finds wrong: errors that make the dataset unusable, and notes."""

from __future__ import annotations

from kubetune.api.kinds.inspection import Problem

KEPT = 10_000
"""Problems kept of each sort; the rest is only counted, so a broken file can't fill memory."""


class Findings:
    """Problems in the order they were found; errors come first."""

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.notes: list[Problem] = []
        self.error_count = 0
        self.note_count = 0

    @property
    def count(self) -> int:
        return self.error_count + self.note_count

    def error(self, problem: Problem) -> None:
        """Add a problem that makes the dataset unusable."""
        self.error_count += 1
        if len(self.errors) < KEPT:
            self.errors.append(problem)

    def note(self, problem: Problem) -> None:
        """Add a problem that the user should know."""
        self.note_count += 1
        if len(self.notes) < KEPT:
            self.notes.append(problem)

    def all(self) -> list[Problem]:
        """Errors, then notes on the whole dataset, then notes on rows."""
        return self.errors + sorted(self.notes, key=lambda note: note.row is not None)


def quote(name: str) -> str:
    """A column or file name for a message, cut where it is very long."""
    return f"'{name}'" if len(name) <= 80 else f"'{name[:77]}...'"


def listing(names: list[str], limit: int = 10) -> str:
    """Names for a message: the first few, and how many more there are."""
    shown = ", ".join(quote(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"
