"""The life of a run that no process stands behind, as a test writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubetune_devcluster.cml.server.statuses import RUNNING, SCHEDULING, STARTING, SUCCEEDED

FOREVER = float("inf")


@dataclass(frozen=True)
class Script:
    """The life of a run.

    ``steps``: statuses with the seconds they last; the last one lasts for ever when ``ends`` is
    empty. ``outcome``: what the run writes into its outcome file when it ends by itself (text,
    or an object that becomes JSON). ``usage``: fields of its row in the usage list.

    With ``tags``, ``metrics`` or ``artifacts`` there is an experiment run: tags are set when it
    starts, ``metrics`` are (seconds after the start, key, value, step), and ``final_tags`` and
    ``artifacts`` (path -> content) come when the run succeeds.
    """

    steps: Sequence[tuple[str, float]] = ((SCHEDULING, 1.0), (STARTING, 1.0), (RUNNING, 5.0))
    ends: str = SUCCEEDED
    outcome: str | Mapping[str, Any] | None = None
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    experiment: str = "kubetune"
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    final_tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Sequence[tuple[float, str, float, int]] = ()
    artifacts: Mapping[str, str | bytes] = field(default_factory=dict[str, str | bytes])

    @property
    def tracked(self) -> bool:
        """Whether it has an experiment run."""
        return bool(self.tags or self.final_tags or self.metrics or self.artifacts)

    def outcome_text(self) -> str | None:
        """What the outcome file holds."""
        if self.outcome is None or isinstance(self.outcome, str):
            return self.outcome
        return json.dumps(self.outcome)
