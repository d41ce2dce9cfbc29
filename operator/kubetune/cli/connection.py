"""Which cluster a command asks, and how it reads what runs have left in MLflow."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kubetune.api.kinds.status_types import MlflowRunDict

asked_home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the local cluster to ask (default: $KUBECONFIG, else the local cluster).",
)
"""Of commands that ask a cluster, which may be any: for ``choose_cluster``."""


class NotThereError(Exception):
    """What was asked for isn't there, or can't be reached; the text says what to do."""


def choose_cluster(home: Path | None) -> None:
    """Point $KUBECONFIG at the local cluster, if its home is given or nothing else is named."""
    if os.environ.get("KUBECONFIG") and home is None:
        return
    try:
        from kubetune_devcluster.paths import default_home
    except ModuleNotFoundError:
        return
    kubeconfig = (home or default_home()).absolute() / "kubeconfig"
    if kubeconfig.exists():
        os.environ["KUBECONFIG"] = str(kubeconfig)
    elif home is not None:
        from kubetune_devcluster import commands

        way_out = commands.kubetune(home, "up")
        raise NotThereError(f"{home} holds no cluster yet; run: {way_out}")


async def artifact(run: MlflowRunDict, path: str) -> str:
    """The text of a run's artifact; ``run`` is a status.mlflow.

    It is asked for at MLFLOW_TRACKING_URI when that is set, with the credentials of its variables;
    else where the status says, without any. Raises NotThereError.
    """
    from kubetune.api.bounded import DOCUMENT
    from kubetune.tracking.base import TrackingError
    from kubetune.tracking.rest import Credentials, RestClient

    root, page, _ = run.get("url", "").partition("/#/")
    if not page:
        raise NotThereError(
            f"the API of CML hands out no artifacts; look at {path} of run {run.get('runId')} in"
            f" {root}"
        )
    credentials = None
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        # Not for an address out of a status: whoever writes that must not get them.
        root = given
        credentials = Credentials(
            username=os.environ.get("MLFLOW_TRACKING_USERNAME", ""),
            password=os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
            token=os.environ.get("MLFLOW_TRACKING_TOKEN", ""),
        )
    server = RestClient(root, credentials, timeout_seconds=30.0)
    try:
        query = {"path": path, "run_uuid": run.get("runId", "")}
        return await server.text("GET", "/get-artifact", query=query, retry=True, limits=DOCUMENT)
    except TrackingError as error:
        raise NotThereError(str(error)) from None
    finally:
        await server.close()
