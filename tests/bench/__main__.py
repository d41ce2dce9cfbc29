"""Runs the bench: ``python -m tests.bench``, or ``make bench ARGS='--jobs 200'``.

The measures follow one another on the same objects: submission between two floors, lives,
memory and silence of an operator with nothing but finished jobs, its restart, the polling of many
runs in CML, what one tenant feels of another, what signing and checks cost, what objects cost
the API server, and how long nobody acts when an operator ends.
Estimates of memory are compared with trainings, and the runner's trainer with a bare loop and stock
trl, and its preparation of rows with the datasets library, without an operator.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import click

from . import data_bench, estimate_error, operator_bench, trainer_bench
from .report import Figure, as_json, as_table

MEASURES = (
    "submission",
    "lives",
    "idle",
    "restart",
    "cml",
    "tenants",
    "trust",
    "schema",
    "failover",
    "estimate",
    "training",
    "data",
)


@click.command()
@click.option("--jobs", default=1000, show_default=True, help="FineTuneJobs to submit.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(MEASURES),
    help="Measure this only; may be given several times. What it needs is done, not measured.",
)
@click.option("--paced", default=200, show_default=True, help="Of these, lives at 4 a second.")
@click.option("--flood", default=10_000, show_default=True, help="Objects of another tenant.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.option(
    "--definition",
    "definitions",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Another definition of FineTuneJob, of before a change, whose writes are measured too.",
)
@click.option(
    "--rows",
    multiple=True,
    type=int,
    help="Rows to prepare, in place of 10 k, 100 k and a million.",
)
@click.option("--profile", type=click.Path(path_type=Path), help="Folder for cProfile's files.")
def main(
    jobs: int,
    only: tuple[str, ...],
    paced: int,
    flood: int,
    output: str,
    profile: Path | None,
    definitions: tuple[Path, ...],
    rows: tuple[int, ...],
) -> None:
    """Measure kubetune; the exit code tells nothing about budgets."""
    # As Ctrl-C does: the cluster must not outlive the bench.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    measures = frozenset(only or MEASURES)
    figures: list[Figure] = []
    if profile:
        profile.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        click.echo(text, err=True)

    if "estimate" in measures:
        figures += estimate_error.measure(say)
    if "data" in measures:
        figures += data_bench.measure(say, tuple(rows) or data_bench.ROWS)
    if "training" in measures:
        figures += trainer_bench.measure(say)
    if of_operator := measures - {"estimate", "training", "data"}:
        with tempfile.TemporaryDirectory(prefix="kubetune-bench-") as folder:
            bench = operator_bench.OperatorBench(
                Path(folder),
                jobs,
                min(paced, jobs),
                flood,
                profile,
                say,
                {path.stem: path for path in definitions},
            )
            figures += asyncio.run(bench.run(of_operator))
    click.echo(as_json(figures) if output == "json" else as_table(figures))


if __name__ == "__main__":
    sys.exit(main())
