"""The simulator as part of the local cluster; ``components.py`` has its flags.

It keeps its API key and its project's files over restarts, but no jobs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from kubetune.clients.cml import CmlClient, CmlError
from kubetune.clients.cml_projects import find_project

from kubetune_devcluster import objects
from kubetune_devcluster.cml import client_package
from kubetune_devcluster.components import Layout
from kubetune_devcluster.errors import LocalClusterError

TARGET = "cml"
PROJECT = "kubetune-demo"
MANIFESTS = Path(__file__).parent / "manifests"


def prepare(layout: Layout) -> None:
    """Make the client package of the workspace, and let the operator find it.

    Raises LocalClusterError when the package can't be made.
    """
    try:
        package = client_package.build() / "cmlapi"
    except client_package.ClientPackageError as error:
        raise LocalClusterError(f"cml: no client package: {error}") from None
    link = layout.cml_packages / "cmlapi"
    temporary = link.with_name("cmlapi.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(package, target_is_directory=True)
    temporary.replace(link)


def install(kubectl: Callable[..., str], layout: Layout, mlflow_url: str) -> None:
    """Make the compute target of the simulator and the Secrets that it needs."""
    values = {
        "CML_URL": layout.url("cml", "http"),
        "CML_API_KEY": layout.cml_key.read_text().strip(),
        "CML_PROJECT": PROJECT,
        "MLFLOW_URL": mlflow_url,
    }
    kubectl(*objects.APPLY, "-f", "-", input=objects.filled(MANIFESTS, values))


def upload(layout: Layout, files: Mapping[str, Path]) -> None:
    """Write local files into the project of the simulator, by their paths there."""
    if str(layout.cml_packages) not in sys.path:
        sys.path.append(str(layout.cml_packages))
    try:
        asyncio.run(_upload(layout, files))
    except CmlError as error:
        raise LocalClusterError(f"cml: the files can't be uploaded: {error}") from None


async def _upload(layout: Layout, files: Mapping[str, Path]) -> None:
    client = CmlClient(layout.url("cml", "http"), layout.cml_key.read_text())
    try:
        project = await find_project(client, PROJECT)
        for path, file in files.items():
            await client.upload(project.id, path, file.read_bytes())
    finally:
        await client.close()
