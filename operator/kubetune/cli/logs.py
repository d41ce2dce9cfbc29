"""``kubetune logs``: what a run prints or has printed, or a component of the local cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from kubetune.cli.cluster import home_option, open_cluster
from kubetune.cli.connection import NotThereError, choose_cluster

COMPONENT_LINES = 100
INTERRUPTED = 130


@click.command()
@home_option
@click.option(
    "-n", "--namespace", default="default", show_default=True, help="Namespace of the run's object."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on printing as the log grows, until the run has ended."
)
@click.option(
    "--tail",
    type=click.IntRange(min=0),
    help=f"Lines from the end (default: all of a run's, {COMPONENT_LINES} of a component's).",
)
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt (default: the newest).")
@click.option("-p", "--previous", is_flag=True, help="The attempt before the newest.")
@click.option(
    "--worker", type=click.IntRange(min=0), default=0, show_default=True, help="Which worker."
)
@click.option("--candidate", help="Which candidate of an Evaluation that has several.")
@click.argument("subject", metavar="KIND/NAME|COMPONENT")
def logs(
    home: Path | None,
    namespace: str,
    follow: bool,
    tail: int | None,
    attempt: int | None,
    previous: bool,
    worker: int,
    candidate: str | None,
    subject: str,
) -> None:
    """Print the log of the run of a FineTuneJob, an Evaluation, a Dataset, a Model or a
    PromptTemplate (KIND/NAME, such as ftj/tickets), or of a COMPONENT of the local cluster.

    A run's log comes from its pod. When the pod is gone, or never was in this cluster, it is the
    artifact logs/attempt-N.log of its MLflow run, which is asked for at MLFLOW_TRACKING_URI when
    that is set, with the credentials of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or
    of MLFLOW_TRACKING_TOKEN; else where the object's status says, without any. When MLflow can't
    be reached either, the last lines of a failed run are printed from the status.

    The cluster is that of --home, of $KUBECONFIG, or the local one.

    \b
    Examples:
      kubetune logs ftj/tickets -f
      kubetune logs ftj/tickets -n team --attempt 1
      kubetune logs eval/tickets --candidate tuned
      kubetune logs dset/tickets
      kubetune logs operator -f
    """
    kind, slash, name = subject.partition("/")
    if not slash:
        _component(home, subject, follow, COMPONENT_LINES if tail is None else tail)
        return
    if previous and attempt is not None:
        raise click.UsageError("give --attempt or --previous, not both")
    from kubetune.cli.run_logs import Wanted, kind_of, write_log

    found = kind_of(kind)
    wanted = Wanted(found, namespace, name, follow, tail, attempt, previous, worker, candidate)
    try:
        choose_cluster(home)
        asyncio.run(write_log(wanted))
    except NotThereError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever reads has had enough, as head does; Python would complain at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _component(home: Path | None, component: str, follow: bool, lines: int) -> None:
    with open_cluster(home) as cluster:
        from kubetune_devcluster import commands

        known = [part.name for part in cluster.status().components]
        if component not in known:
            raise click.BadParameter(
                f"{component!r} is not one of {', '.join(known)}; for the log of a run give"
                f" KIND/NAME, such as ftj/{component}",
                param_hint="COMPONENT",
            )
        log = cluster.log(component)
        if not log.exists():
            way_out = commands.kubetune(cluster.home, "up")
            raise click.ClickException(f"{component} has not been started yet; run: {way_out}")
        options = ["-F"] if follow else []
        os.execvp("tail", ["tail", "-n", str(lines), *options, str(log)])  # noqa: S606
