"""Lists and watches the pods bound to the node and keeps one worker for each."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import shim
from .attempt import Attempt
from .client import UNREACHABLE, ApiError, Object
from .worker import Node, PodWorker

logger = logging.getLogger(__name__)

_FIRST_LIST = 20.0
"""Seconds that a stop waits for the first list: before it, pods of an earlier node are unknown."""


class Pods:
    """All pods of the node, by uid."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.workers: dict[str, PodWorker] = {}
        self._removals: set[asyncio.Task[None]] = set()
        self._listed = asyncio.Event()
        (node.home / "pods").mkdir(parents=True, exist_ok=True)

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of the pod that has this name now."""
        for worker in self.workers.values():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (
                namespace,
                name,
            ) and not worker.gone:
                return worker
        return None

    async def follow(self) -> None:
        """List, then watch, for ever; a lost connection is made again, an old list is repeated."""
        selector = f"spec.nodeName={self.node.name}"
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list(selector)
                async for event in self.node.client.watch(
                    "/api/v1/pods", fieldSelector=selector, resourceVersion=version
                ):
                    self._apply(event["type"], event["object"])
                    version = event["object"]["metadata"]["resourceVersion"]
            except ApiError as error:
                logger.warning("watching pods: %s", error)
                version = ""
            except UNREACHABLE as error:
                logger.warning("watching pods: %s", error or type(error).__name__)
            else:
                continue
            await asyncio.sleep(1)

    async def stop_all(self) -> None:
        """Stop every pod as disrupted; returns when the API server has their statuses."""
        try:
            async with asyncio.timeout(_FIRST_LIST):
                await self._listed.wait()
        except TimeoutError:
            logger.warning("no answer from the API server: pods of an earlier node keep running")
        for worker in self.workers.values():
            worker.stop_for_node()
        await asyncio.gather(*(worker.task for worker in self.workers.values()))

    async def _list(self, selector: str) -> str:
        """Bring the workers in line with the server's list; returns its resource version."""
        found = await self.node.client.get("/api/v1/pods", fieldSelector=selector)
        pods = {pod["metadata"]["uid"]: pod for pod in found["items"]}
        for uid in self.workers.keys() - pods.keys():
            self._forget(uid)
        for pod in pods.values():
            self._apply("MODIFIED", pod)
        # Folders without an object: the pod was force-deleted while no node was there.
        known = {self._folder(uid).name for uid in self.workers}
        removing = {task.get_name() for task in self._removals}
        for folder in (self.node.home / "pods").iterdir():
            if folder.name not in known | removing:
                self._remove(folder, None)
        self._listed.set()
        return found["metadata"]["resourceVersion"]

    def _apply(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(uid)
        elif uid in self.workers:
            self.workers[uid].update(pod)
        else:
            self.workers[uid] = PodWorker(self.node, pod)

    def _forget(self, uid: str) -> None:
        worker = self.workers.pop(uid, None)
        if worker is not None:
            worker.forget()
            self._remove(self._folder(uid), worker)

    def _folder(self, uid: str) -> Path:
        return self.node.home / "pods" / uid

    def _remove(self, folder: Path, worker: PodWorker | None) -> None:
        task = asyncio.create_task(_remove_folder(folder, worker), name=folder.name)
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)


async def _remove_folder(folder: Path, worker: PodWorker | None) -> None:
    if worker is not None:
        await asyncio.wait([worker.task])
    for container in list(folder.glob("containers/*")):  # noqa: ASYNC240 - a handful
        # A shim that lives would still write into the folder.
        attempt = Attempt(container)
        attempt.signal(shim.KILL)
        await attempt.wait()
    await asyncio.to_thread(shutil.rmtree, folder, onerror=_make_writable)


def _make_writable(retry: Callable[..., Any], path: str, error: Any) -> None:
    """Go on where a container left a folder that its own user may not change."""
    if isinstance(error[1], FileNotFoundError):
        return
    try:
        Path(path).parent.chmod(0o700)
        retry(path)
    except OSError as failure:
        logger.warning("could not remove %s: %s", path, failure)
