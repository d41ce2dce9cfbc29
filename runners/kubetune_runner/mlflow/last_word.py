"""What a run was told last: a report whose connection broke may be handled after a newer one.

MLflow keeps no order of tags and states. So where a report failed without an answer, the run is
read back, and what an older report has replaced meanwhile is said again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubetune_runner.mlflow import client as mlflow_client

DOUBT_SECONDS = 60.0
"""How long a server may take for a request that nobody waits for; at the end of a run it is asked
once more."""


@dataclass(frozen=True)
class Overtaken:
    """What is to be said again."""

    tags: dict[str, str] = field(default_factory=dict[str, str])
    status: str | None = None


class LastWord:
    """Tags that were sent, and the state that the run has ended in."""

    def __init__(self) -> None:
        self.status: str | None = None
        self.doubted = False
        """Whether a report has failed, and the run was not read back at its end."""
        self._sent: dict[str, str] = {}
        self._older: dict[str, set[str]] = defaultdict(set)
        """Values that may still arrive."""
        self._sending: dict[str, str] = {}
        self._doubt_ends = 0.0

    def sends(self, tags: Mapping[str, str]) -> None:
        """These tags are under way."""
        self._sending = dict(tags)
        self._sent |= tags

    def doubt(self) -> None:
        """What is under way may or may not have arrived, or do so later."""
        self.doubted = True
        self._doubt_ends = time.monotonic() + DOUBT_SECONDS
        for key, value in self._sending.items():
            self._older[key].add(value)

    def to_be_read(self, *, closing: bool) -> bool:
        """Whether to read the run back."""
        return self.doubted and (closing or time.monotonic() < self._doubt_ends)

    def overtaken(self, client: Any, run_id: str) -> Overtaken:
        """What the server has from an older report; a server that can't say has nothing."""
        try:
            run = client.get_run(run_id)
        except Exception as error:
            if not mlflow_client.is_unsupported(error):
                raise
            self.doubted = False
            return Overtaken()
        tags = {
            key: value
            for key, value in self._sent.items()
            if run.data.tags.get(key) != value and run.data.tags.get(key) in self._older[key]
        }
        status = self.status if run.info.status == "RUNNING" else None
        if not tags and not status and self.status is not None:
            self.doubted = False
        return Overtaken(tags, status)
