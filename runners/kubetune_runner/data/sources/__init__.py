"""Finds the files of each split: one module for each field of the plan's ReadFrom, of its name.

A module has ``opened``, a context manager that gives the files on disk for as long as it lasts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from kubetune.api.kinds.dataset.sources import ReadFrom
from kubetune.api.kinds.dataset.spec import Splits
from kubetune.api.run.plan import DatasetPlan

from kubetune_runner.data.findings import Findings
from kubetune_runner.data.items import Source


@dataclass(frozen=True)
class Reader:
    """Who opens a source."""

    splits: Splits
    """Which splits are used; the files of others need not be fetched."""
    token: str | None
    findings: Findings
    """Takes what is odd and stops no run."""


def open_source(
    plan: DatasetPlan, token: str | None, findings: Findings
) -> AbstractContextManager[Source]:
    """The source's files, on disk for as long as the context lasts."""
    name, place = given(plan)
    reader = Reader(plan.splits, token, findings)
    return import_module(f"{__name__}.{name}").opened(place, reader)


def given(plan: ReadFrom) -> tuple[str, Any]:
    """The field of ReadFrom that the plan has, and its value."""
    return next(
        (name, place)
        for name in ReadFrom.model_fields
        if (place := getattr(plan, name)) is not None
    )
