"""Values that trackers read alike."""

from __future__ import annotations

import math
from typing import Any


def metric_value(value: Any) -> float:
    """A metric's value: zero may be left out, and NaN and infinity come as text."""
    number = float(value or 0)
    # One object for all NaNs, so that a run with one equals itself at the next poll.
    return math.nan if math.isnan(number) else number
