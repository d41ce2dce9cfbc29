"""Puts the node together and runs it until a signal ends it."""

import argparse
import asyncio
import fcntl
import logging
import signal
import socket
import sys
from pathlib import Path

from aiohttp import web

from . import server
from .attempt import Zygote
from .client import UNREACHABLE, ApiError, Client
from .gpus import Gpus, count_gpus
from .pods import Pods
from .registration import Registration, machine_resources
from .worker import HOST_ADDRESS, Node

logger = logging.getLogger(__name__)

RUNNER_IMAGE = "kubetune.local/runner"
"""The image that stands for the Python environment this node runs in."""


def run(options: argparse.Namespace, home: Path, view: str, zygote: socket.socket) -> int:
    """Run the node; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # After the fork of the zygote, which would else inherit the lock and outlive us with it.
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.error("another process node uses --home %s; stop it first", home)
            return 1
        return asyncio.run(_run(options, home, view, zygote))


async def _run(
    options: argparse.Namespace, home: Path, view: str, connection: socket.socket
) -> int:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    gpus = count_gpus() if options.gpus is None else options.gpus
    resources = machine_resources(home, options.cpus, options.memory, gpus)
    images = {RUNNER_IMAGE: Path(sys.prefix), **dict(options.image)}
    client = Client(options.kubeconfig)
    zygote = Zygote(connection)
    await zygote.connect()
    python = _python_folders(images)
    node = Node(options.name, home, client, zygote, images, python, view, Gpus(gpus), resources)
    pods = Pods(node)
    runner = web.AppRunner(
        server.application(pods, options.api_client_name),
        access_log=None,
        shutdown_timeout=0.5,
    )
    await runner.setup()
    tls = server.tls_context(options.serving_cert, options.serving_key, options.client_ca)
    site = web.TCPSite(runner, HOST_ADDRESS, 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    registration = Registration(client, options.name, HOST_ADDRESS, port, view, resources)
    tasks = [asyncio.create_task(_serve(registration, pods))]
    stop = asyncio.create_task(signals.get())
    try:
        await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            await tasks[0]  # it only ends by an error
        if stop.result() is signal.SIGINT:
            logger.info("stopping %d pods", len(pods.workers))
            await pods.stop_all()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await registration.leave()
        await runner.cleanup()
        await client.close()
    return 0


def _python_folders(images: dict[str, Path]) -> list[Path]:
    """The environments, their interpreters, and what this one imports from elsewhere."""
    # The first entry of sys.path is where the node happened to be started.
    folders = {Path(sys.base_prefix), *map(Path, sys.path[1:])}
    for environment in images.values():
        folders |= {environment, (environment / "bin" / "python").resolve().parents[1]}
    folders = {folder for folder in folders if folder.is_dir()}
    return sorted(f for f in folders if not folders.intersection(f.parents))


async def _serve(registration: Registration, pods: Pods) -> None:
    while True:
        try:
            await registration.register()
            break
        except (ApiError, *UNREACHABLE) as error:
            logger.warning("registering: %s", error or type(error).__name__)
        await asyncio.sleep(0.5)
    logger.info("node %s is registered, volumes by %s", registration.name, registration.view)
    async with asyncio.TaskGroup() as group:
        group.create_task(registration.keep())
        group.create_task(pods.follow())
