"""``kubetune quickstart``: from nothing to a registered adapter on this machine."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubetune.cli.cluster import home_option, open_cluster
from kubetune.cli.progress import progress

if TYPE_CHECKING:
    from kubetune_devcluster.cluster import LocalCluster
    from kubetune_devcluster.quickstart.start import Object

SHOWN_SAMPLES = 3


@click.command()
@home_option
@click.option(
    "--model",
    metavar="REPO",
    help="Model of a Hugging Face hub, such as HuggingFaceTB/SmolLM2-135M."
    " Default: a small one that is pretrained here, so that nothing is downloaded.",
)
@click.option(
    "--target",
    type=click.Choice(["local", "cml"]),
    default="local",
    show_default=True,
    help="Where it trains: in a pod of the local cluster, or in a job of the simulator of a"
    " Cloudera Machine Learning workspace. The latter needs Java.",
)
def quickstart(home: Path | None, model: str | None, target: str) -> None:
    """Fine-tune a small model on generated support tickets, on a local cluster.

    Starts the cluster, applies a Dataset, a Model, a PromptTemplate and a FineTuneJob, follows the
    job and shows what the model has learned. Running it again trains again.

    \b
    Examples:
      kubetune quickstart
      kubetune quickstart --model HuggingFaceTB/SmolLM2-135M
      kubetune quickstart --target cml
    """
    started_at = time.monotonic()
    on_cml = target == "cml"
    with open_cluster(home, cml=on_cml) as cluster:
        from kubetune_devcluster.quickstart.follow import follow
        from kubetune_devcluster.quickstart.start import start

        with progress() as report:
            started = start(cluster, model, report, on_cml=on_cml)
            if started.note:
                report("note", started.note)
            job = follow(cluster, started.job, report)
        _show(cluster, job)
        click.echo(f"\nDone in {time.monotonic() - started_at:.0f} s.")


def _show(cluster: LocalCluster, job: Object) -> None:
    from kubetune_devcluster.quickstart.results import comparisons, links, samples

    click.echo("\nOn tickets that training never saw:")
    click.echo(f"  {'':<14}{'before':>12}{'after':>12}")
    for row in comparisons(job):
        click.echo(f"  {row.metric:<14}{_number(row.before):>12}{_number(row.after):>12}")
    for sample in samples(cluster, job)[:SHOWN_SAMPLES]:
        click.echo(f"\n  {' '.join(sample['prompt'].split())}")
        click.echo(f"    before:   {_one_line(sample['base'])}")
        click.echo(f"    after:    {_one_line(sample['tuned'])}")
        click.echo(f"    expected: {_one_line(sample['reference'])}")
    if registered := job["status"]["result"].get("registered"):
        alias = f" (alias {registered['alias']})" if registered.get("alias") else ""
        click.echo(
            f"\nRegistered in MLflow: {registered['name']} version {registered['version']}{alias}"
        )
    for title, page in links(cluster, job).items():
        click.echo(f"  {title}: {page}")
    _show_next_steps(cluster, job)


def _show_next_steps(cluster: LocalCluster, job: Object) -> None:
    from kubetune_devcluster import commands
    from kubetune_devcluster.quickstart.start import manifests

    home = cluster.home
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    of_namespace = ("-n", namespace)
    steps = {
        "everything kubetune knows": commands.kubectl(home, "get", "kubetune", *of_namespace),
        "settings, lineage and results": commands.kubectl(
            home, "get", "ftj", name, *of_namespace, "-o", "yaml"
        ),
        "what can be set": commands.kubectl(home, "explain", "ftj.spec.method.lora"),
        "what the run has printed": commands.kubetune(home, "logs", *of_namespace, f"ftj/{name}"),
    }
    features = manifests().parent / "features"
    if features.is_dir():
        steps["one example for each feature"] = shlex.join(["ls", str(features)])
    steps["for a kubectl of your own"] = shlex.join(["export", f"KUBECONFIG={cluster.kubeconfig}"])
    steps["stop it all"] = commands.kubetune(home, "down")
    click.echo("\nWhat to try next:")
    for purpose, command in steps.items():
        # On lines of their own, as they are long and may be copied whole.
        click.echo(f"  # {purpose}\n  {command}")


def _number(text: str) -> str:
    return f"{float(text):.3g}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= 72 else f"{line[:71]}…") or "(nothing)"
