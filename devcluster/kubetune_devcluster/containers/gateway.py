"""A process that takes connections of pods to servers which listen on loopback only.

A pod can't reach 127.0.0.1 of the machine, and the servers shouldn't listen elsewhere. The gateway
passes bytes on, and only for pods of its node and for the machine itself.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_address

from kubetune_devcluster.containers.layout import NODE_ADDRESS

logger = logging.getLogger(__name__)

CHUNK = 1 << 16
SO_BINDTODEVICE = 25  # the same on all architectures that Kubernetes runs on


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="kubetune_devcluster.containers.gateway")
    parser.add_argument("--device", required=True, help="bridge of the node's pods")
    parser.add_argument(
        "--allow", required=True, type=IPv4Network, help="network of the node's pods"
    )
    for option, text in (
        ("--from-pods", "address that only this node's pods reach; port on loopback"),
        ("--from-machine", "address that pods and this machine reach; port on loopback"),
    ):
        parser.add_argument(
            option, nargs=2, action="append", default=[], metavar=("ADDRESS", "PORT"), help=text
        )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    listeners = [
        (_listen(address, device), int(port))
        for pairs, device in (
            (arguments.from_pods, arguments.device),
            (arguments.from_machine, None),
        )
        for address, port in pairs
    ]
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(listeners, arguments.allow))


def _listen(address: str, device: str | None) -> socket.socket:
    host, _, port = address.rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if device:
        # The nodes of other clusters on this machine listen on the same address.
        listener.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
    listener.bind((host, int(port)))
    listener.setblocking(False)
    return listener


async def _serve(listeners: Sequence[tuple[socket.socket, int]], pods: IPv4Network) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    def forward(port: int):
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _pass_on(reader, writer, port, pods)

        return connected

    servers = [await asyncio.start_server(forward(port), sock=sock) for sock, port in listeners]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    pods: IPv4Network,
) -> None:
    peer = ip_address(writer.get_extra_info("peername")[0])
    # Linux takes packets for any address of the machine from any network.
    if not (peer in pods or peer == NODE_ADDRESS or peer.is_loopback):
        logger.warning("refused a connection from %s", peer)
        writer.close()
        return
    try:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        logger.warning("127.0.0.1:%s: %s", port, error)
        writer.close()
        return
    await asyncio.gather(_copy(reader, back_writer), _copy(back_reader, writer))
    for end in (writer, back_writer):
        end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side ends, and tell the other that nothing more comes."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


if __name__ == "__main__":
    main()
