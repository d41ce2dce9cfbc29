"""Reads the rows of a dataset for training; an inspection reads them with ``reading`` itself.

sources finds the files of each split, readers turns a file into rows, reading walks through
them once (digests, columns, problems), splits holds rows out, and stored keeps them on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.kinds.inspection import Column, Problem
from kubetune.api.run.plan import DatasetPlan

from kubetune_runner.data.readers import Row
from kubetune_runner.data.stored import Rows
from kubetune_runner.data.verdicts import Place
from kubetune_runner.errors import RunError
from kubetune_runner.stages import UNWATCHED, Watch

__all__ = ["LoadedDataset", "Place", "Row", "Rows", "check_unchanged", "load"]


@dataclass(frozen=True)
class LoadedDataset:
    """All rows of the two splits, in source order, on disk.

    A row maps column names to JSON values (str, int, float, bool, None, list, dict). Cells of
    a CSV file are text as written; an empty cell is "". Columns may be absent from a row of
    a json or jsonl source.
    """

    train: Rows
    evaluation: Rows
    """Held-out rows; may be empty."""
    columns: list[Column]
    digest: str
    """``sha256:<hex>`` over the rows of the source's splits that are used."""
    split_digest: str
    """``sha256:<hex>`` over the rows of train and evaluation, in order."""
    revision: str | None
    """Commit of a hub source."""
    problems: list[Problem]
    """What is odd but doesn't stop a run, such as empty completions."""


def load(plan: DatasetPlan, token: str | None, watch: Watch = UNWATCHED) -> LoadedDataset:
    """Read the rows of a dataset and split them; the digests are for the caller to compare.

    Raises RunError when rows can't be read (InvalidRows, NoRows, NoFiles, ...), the hub
    refuses (HubAccessDenied, HubNotFound) or is away (HubThrottled, HubUnreachable), or the disk is
    full (DiskFull).
    """
    from kubetune_runner.data.reading import read
    from kubetune_runner.data.stored import StoredRows

    stored = StoredRows()
    reading = read(plan, token, visit=stored.add, watch=watch)
    stored.finish()
    return LoadedDataset(
        train=reading.train_rows(stored),
        evaluation=reading.evaluation_rows(stored),
        columns=reading.columns,
        digest=reading.digest,
        split_digest=reading.split_digest,
        revision=reading.revision,
        problems=reading.findings.all(),
    )


def check_unchanged(plan: DatasetPlan, loaded: LoadedDataset) -> None:
    """Compare the rows with those that were inspected. Raises RunError DatasetChanged."""
    for found, expected in (
        (loaded.digest, plan.digest),
        (loaded.split_digest, plan.split_digest),
    ):
        if expected is not None and found != expected:
            raise RunError(
                "DatasetChanged",
                f"dataset {plan.name} is not what was inspected (digest {found[:19]}…, expected"
                f" {expected[:19]}…): restore the files, or apply the Dataset under a new name",
            )
