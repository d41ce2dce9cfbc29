"""How far reading and tokenizing have come, for whoever shows it."""

from __future__ import annotations

from kubetune_runner.stages import UNWATCHED, Report, Watch

__all__ = ["EVERY_ROWS", "UNWATCHED", "Report", "Watch"]

EVERY_ROWS = 1000
"""Between two reports."""
