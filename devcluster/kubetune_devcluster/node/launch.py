"""What a shim has to run for a container: its program, environment and mounts."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import environment, mounts, support, volumes
from .attempt import MARK, Zygote
from .client import Client, Object
from .gpus import Gpus, gpu_share

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOME = "/kubetune/home"
"""HOME in a mount namespace: the pod's own folder, out of the way of its mounts."""


@dataclass
class Node:
    """What all workers share."""

    name: str
    home: Path
    client: Client
    zygote: Zygote
    images: dict[str, Path]
    """The Python environment's folder by image name."""
    python: list[Path]
    """Folders that Python needs in these environments, to keep in sight of every pod."""
    view: str
    """`namespaces` or `links`: how containers see their volumes."""
    gpus: Gpus
    allocatable: dict[str, str]


class Launch:
    """Prepares the containers of one pod, below the pod's folder."""

    def __init__(self, node: Node, pod: Object, folder: Path, addresses: dict[str, str]) -> None:
        self.node, self.pod, self.folder, self.addresses = node, pod, folder, addresses
        self.uid: str = pod["metadata"]["uid"]
        self._prepared: dict[str, Path] | None = None
        self._preparing = asyncio.Lock()

    async def _volumes(self) -> dict[str, Path]:
        """The pod's volumes, prepared once; the first container that needs them does it."""
        async with self._preparing:
            if self._prepared is None:
                self._prepared = await volumes.Volumes(
                    self._references(),
                    self.folder / "volumes",
                    self.pod,
                    self.addresses,
                    self.node.allocatable,
                ).prepare()
            return self._prepared

    async def spec(self, container: Object) -> dict[str, Any]:
        name = container["name"]
        folder = self.folder / "containers" / name
        root = folder / "root"
        root.mkdir(parents=True, exist_ok=True)
        (folder / "termination").touch(0o600)

        def field(source: Object) -> str:
            if reference := source.get("fieldRef"):
                path = reference["fieldPath"]
                return environment.pod_field(self.pod, path, self.addresses)
            reference, allocatable = source["resourceFieldRef"], self.node.allocatable
            return environment.resource_field(self.pod, name, reference, allocatable)

        variables = await volumes.container_variables(
            container, self._references(), self._base_variables(container, root), field
        )
        places = volumes.container_mounts(container, await self._volumes(), variables)
        path = container.get("terminationMessagePath") or "/dev/termination-log"
        termination = str(folder / "termination")
        places.append({"source": termination, "target": path, "readOnly": False})
        cwd = container.get("workingDir") or ""
        if self.node.view == "namespaces":
            places += self._own_mounts(places, variables)
        else:
            mounts.link(str(root), places)
            if cwd and (root / cwd.lstrip("/")).is_dir():
                cwd = str(root / cwd.lstrip("/"))
        argv = [*container["command"], *(container.get("args") or ())]
        return {
            "argv": [environment.expand(word, variables) for word in argv],
            "env": variables,
            "cwd": cwd or variables["HOME"],
            "view": self.node.view,
            "root": str(root),
            "mounts": places,
        }

    def _own_mounts(
        self, places: list[mounts.Mount], variables: dict[str, str]
    ) -> list[mounts.Mount]:
        """The pod's home, and Python where the pod's mounts hide it (a mount on /tmp may)."""
        targets = [Path(place["target"]) for place in places]
        modules = [Path(entry) for entry in variables.get("PYTHONPATH", "").split(":") if entry]
        python = dict.fromkeys([*self.node.python, *(f for f in modules if f.is_dir())])
        hidden = [f for f in python if any(f.is_relative_to(t) for t in targets)]
        made: list[mounts.Mount] = [
            {"source": str(folder), "target": str(folder), "readOnly": False} for folder in hidden
        ]
        home = str(self.folder / "home")
        return [*made, {"source": home, "target": _HOME, "readOnly": False}]

    def _base_variables(self, container: Object, root: Path) -> dict[str, str]:
        python = self.environments()[container["image"]]
        server = urlsplit(self.node.client.server)
        share = gpu_share(self.pod, container, self.node.gpus.held(self.uid))
        variables = {
            "PATH": f"{python / 'bin'}:{_SYSTEM_PATH}",
            "VIRTUAL_ENV": str(python),
            "HOME": _HOME if self.node.view == "namespaces" else str(self.folder / "home"),
            "HOSTNAME": self.pod["metadata"]["name"],
            "LANG": "C.UTF-8",
            MARK: f"{self.uid}/{container['name']}",
            "KUBERNETES_SERVICE_HOST": server.hostname or "",
            "KUBERNETES_SERVICE_PORT": str(server.port or 443),
            "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in share),
        }
        if self.pod["spec"].get("subdomain"):
            # A headless Service would name the pods; here all of them share one address.
            variables["KUBETUNE_PEERS_AT"] = self.addresses["hostIP"]
        if self.node.view == "links":
            variables["KUBETUNE_ROOT"] = str(root)
            if any(m["mountPath"] == "/tmp" for m in container.get("volumeMounts") or ()):  # noqa: S108
                variables["TMPDIR"] = f"{root}/tmp"  # noqa: S108
        return variables

    def _references(self) -> volumes.References:
        return volumes.References(self.node.client, self.pod["metadata"]["namespace"])

    def environments(self) -> dict[str, Path]:
        images = {c["image"] for c in environment.all_containers(self.pod)}
        found = {image: support.image_environment(image, self.node.images) for image in images}
        return {image: folder for image, folder in found.items() if folder is not None}
