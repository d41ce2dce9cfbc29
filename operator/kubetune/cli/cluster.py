"""The commands for the local cluster: up, down, status, kubeconfig and kubectl.

They only parse and print; the work is in ``kubetune_devcluster``, a package of its own that is
imported when a command runs.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kubetune_devcluster.cluster import LocalCluster
    from kubetune_devcluster.status import ClusterStatus

EXTRA_HINT = "The local cluster needs more packages: pip install 'kubetune[local]'"

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the cluster (default: $KUBETUNE_HOME, else ~/.local/share/kubetune).",
)


@contextmanager
def open_cluster(
    home: Path | None,
    without: Collection[str] = (),
    *,
    node: str = "process",
    cml: bool = False,
    cpus: int | None = None,
) -> Generator[LocalCluster]:
    """The cluster of a command; its errors become messages without a traceback.

    ``cpus`` are those that the process node offers, where it isn't to offer the machine's.
    """
    try:
        from kubetune_devcluster.cluster import LocalCluster
        from kubetune_devcluster.errors import LocalClusterError
        from kubetune_devcluster.home import DEFAULT_ADDONS
        from kubetune_devcluster.paths import default_home
    except ModuleNotFoundError as missing:
        raise click.ClickException(f"{EXTRA_HINT} (no module {missing.name!r})") from None
    components = DEFAULT_ADDONS - set(without) | ({"cml"} if cml else set[str]())
    if node == "containerd":
        components = components - {"node"} | {"containers"}
    try:
        offered = {"process-node": ("--cpus", str(cpus))} if cpus else {}
        yield LocalCluster(home or default_home(), components, flags=offered)
    except LocalClusterError as error:
        raise click.ClickException(str(error)) from None


def no_cluster(cluster: LocalCluster) -> click.ClickException:
    """What a command says that needs a cluster which was never started."""
    from kubetune_devcluster import commands

    way_out = commands.kubetune(cluster.home, "up")
    return click.ClickException(f"{cluster.home} holds no cluster yet; run: {way_out}")


@click.command()
@home_option
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(["node", "mlflow", "operator"]),
    help="Leave a component out; may be given several times.",
)
@click.option(
    "--node",
    type=click.Choice(["process", "containerd"]),
    default="process",
    show_default=True,
    help="What runs pods: processes of yours, or a kubelet with containerd. The latter needs"
    " Linux, root and runc.",
)
@click.option(
    "--cml",
    is_flag=True,
    help="Also start the simulator of a Cloudera Machine Learning workspace, as the"
    " ClusterComputeTarget cml. Needs Java.",
)
@click.option(
    "--cpus",
    type=click.IntRange(min=1),
    help="CPUs that the process node offers, once it starts (default: the machine's). With more"
    " than there are, pods that ask for them run too, more slowly.",
)
def up(home: Path | None, without: tuple[str, ...], node: str, cml: bool, cpus: int | None) -> None:
    """Start the local cluster, or what is missing of it.

    The first time this compiles the control plane (several minutes; it is kept for all later
    starts). Everything listens on 127.0.0.1 only, as your user.

    With --cml, jobs whose computeTargetRef names the ClusterComputeTarget cml run through the API
    of a workspace, as processes of yours. The simulator keeps its project's files, but forgets its
    jobs when it ends: what ran at `kubetune down` counts as lost after the next up and is tried
    again, as far as backoffLimit goes.

    With --node containerd, pods are isolated and limited as on any Linux node. Their network is a
    bridge on this machine and has no way out of it.

    \b
    Examples:
      kubetune up
      kubetune up --node containerd
      kubetune up --cml
      kubetune up --without operator     to run the operator yourself
    """
    from kubetune.cli.progress import progress

    if node != "process" and "node" in without:
        raise click.UsageError("--without node leaves no node for --node containerd")
    if cpus and (node != "process" or "node" in without):
        raise click.UsageError("--cpus is about the process node")
    with open_cluster(home, without, node=node, cml=cml, cpus=cpus) as cluster:
        with progress() as report:
            status = cluster.up(report)
        click.echo(_table(status))
        click.echo(f"\nexport KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")


@click.command()
@home_option
@click.option("--delete", is_flag=True, help="Also delete all objects, runs and models of it.")
def down(home: Path | None, delete: bool) -> None:
    """Stop the local cluster: pods first, then servers. Its state stays for the next up.

    \b
    Examples:
      kubetune down
      kubetune down --delete     start from nothing next time
    """
    from kubetune.cli.progress import progress

    with open_cluster(home) as cluster, progress() as report:
        cluster.down(delete=delete, report=report)


@click.command()
@home_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def status(home: Path | None, output: str) -> None:
    """Show what runs where. Exits with 1 when the control plane is down or something crashed.

    \b
    Examples:
      kubetune status
      kubetune status -o json | jq '.components[] | {name, state, rssBytes}'
    """
    with open_cluster(home) as cluster:
        state = cluster.status()
        click.echo(json.dumps(state.to_json(), indent=2) if output == "json" else _table(state))
    sys.exit(0 if state.running else 1)


@click.command()
@home_option
def kubeconfig(home: Path | None) -> None:
    """Print the path of the administrator's kubeconfig.

    \b
    Example:
      export KUBECONFIG=$(kubetune kubeconfig)
    """
    with open_cluster(home) as cluster:
        if not cluster.kubeconfig.exists():
            raise no_cluster(cluster)
        click.echo(cluster.kubeconfig)


@click.command(context_settings={"ignore_unknown_options": True})
@home_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(home: Path | None, arguments: tuple[str, ...]) -> None:
    """Run kubectl of the control plane's own version against the local cluster.

    \b
    Examples:
      kubetune kubectl -- get pods -A
      kubetune kubectl -- explain ftj.spec.method.lora
    """
    with open_cluster(home) as cluster:
        program = cluster.kubectl_path()
        if not program.exists():
            raise no_cluster(cluster)
        environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
        os.execve(program, ["kubectl", *arguments], environment)  # noqa: S606 (no shell wanted)


def _table(status: ClusterStatus) -> str:
    """The status as aligned columns, without colours so that it can be piped."""
    rows = [("COMPONENT", "STATE", "PID", "MEMORY", "ADDRESS", "LOG")]
    for part in status.components:
        memory = f"{part.rss_bytes / 2**20:.0f} MiB" if part.rss_bytes else "-"
        pid = str(part.pid or "-")
        rows.append((part.name, part.state, pid, memory, part.address or "-", str(part.log)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"Kubernetes {status.kubernetes_version} in {status.home}"]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
