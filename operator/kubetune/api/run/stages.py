"""The stages of a run, one after the other, and what each counts.

A run tells where it stands in its tracked run; what it says is taken in by these names alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal[
    "downloading",
    "reading",
    "tokenizing",
    "loading",
    "baseline",
    "training",
    "evaluating",
    "tasks",
    "judging",
    "merging",
    "uploading",
]
STAGES: tuple[Stage, ...] = get_args(Stage)
Unit = Literal["bytes", "rows", "steps", "requests"]
UNITS: tuple[Unit, ...] = get_args(Unit)

TOLD_STAGE = "stage"
"""In the tag TAG_PROGRESS: one of STAGES."""
TOLD_UNIT = "unit"
"""One of UNITS, where the stage counts something."""
TOLD_DONE = "done"
TOLD_TOTAL = "total"
TOLD_ETA = "stage_eta_seconds"
"""Seconds until the stage ends, as far as its own pace tells."""
TOLD_PERCENT = "percent"
"""Of the whole run: 99 until it has ended well."""
MOST = 99


@dataclass(frozen=True)
class StageFacts:
    """A stage among the others."""

    words: str
    """For people."""
    share: int
    """How much of a run it is, compared with the others: a guess that holds for no run and is the
    same for all, so that percent means the same in each."""


FACTS: dict[Stage, StageFacts] = {
    "downloading": StageFacts("downloading", 4),
    "reading": StageFacts("reading the rows", 3),
    "tokenizing": StageFacts("tokenizing", 4),
    "loading": StageFacts("loading the model", 3),
    "baseline": StageFacts("measuring the untrained model", 5),
    "training": StageFacts("training", 65),
    "evaluating": StageFacts("evaluating", 6),
    "tasks": StageFacts("asking for tasks", 30),
    "judging": StageFacts("judging", 10),
    "merging": StageFacts("merging", 4),
    "uploading": StageFacts("uploading", 6),
}
MEASURING_SHARE = 60
"""Of evaluating, in a run that does nothing else."""
