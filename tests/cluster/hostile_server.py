"""A server on loopback that answers whoever asks with what no reader should take in."""

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Generator

Answer = Callable[[socket.socket, threading.Event], None]

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def packed(size: int) -> bytes:
    """So many zeros of JSON as gzip."""
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(b'{"a":"')]
    pieces += [packer.compress(b"0" * 2**20) for _ in range(size // 2**20)]
    return b"".join([*pieces, packer.compress(b'"}'), packer.flush()])


BOMB = packed(512 * 2**20)


def whole(head: str, data: bytes) -> Answer:
    def answer(client: socket.socket, _: threading.Event) -> None:
        client.sendall(f"{HEAD}{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    return answer


def endless(client: socket.socket, over: threading.Event) -> None:
    client.sendall(f'{HEAD}\r\n{{"a":"'.encode())
    while not over.is_set():
        client.sendall(b"x" * 65536)


def dripping(client: socket.socket, over: threading.Event) -> None:
    client.sendall(f"{HEAD}Content-Length: 1000000\r\n\r\n{{".encode())
    while not over.wait(0.2):
        client.sendall(b" ")


def dripping_head(client: socket.socket, over: threading.Event) -> None:
    client.sendall(HEAD.encode())
    while not over.wait(0.2):
        client.sendall(b"X: y\r\n")


def huge_head(client: socket.socket, over: threading.Event) -> None:
    client.sendall(HEAD.encode())
    while not over.is_set():
        client.sendall(b"X-Filler: " + b"y" * 8000 + b"\r\n")


ANSWERS: dict[str, Answer] = {
    "gzip": whole("Content-Encoding: gzip\r\n", BOMB),
    "twice": whole("Content-Encoding: gzip, gzip\r\n", BOMB),
    "brotli": whole("Content-Encoding: br\r\n", b"x" * 1000),
    "not_gzip": whole("Content-Encoding: gzip\r\n", b"x" * 1000),
    "deep": whole("", b"[" * 20_000 + b"]" * 20_000),
    "deep_objects": whole("", b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "many": whole("", b"[" + b"[]," * 2_000_000 + b"1]"),
    "digits": whole("", b'{"a":' + b"9" * 1_000_000 + b"}"),
    "long": whole("", b'{"a":"' + b"x" * 40 * 2**20 + b'"}'),
    "endless": endless,
    "dripping": dripping,
    "dripping_head": dripping_head,
    "huge_head": huge_head,
    "not_utf8": whole("", b'{"a":"\xff\xfe"}'),
    "secret": whole("", b"root:x:0:0:s3cret"),
}


class HostileServer:
    """Answers every request in one way; ``asked`` counts them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and answering."""
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(30)
            if client.recv(65536):
                self.asked += 1
                self._answer(client, self._over)
                time.sleep(0.05)


@contextlib.contextmanager
def hostile(name: str) -> Generator[HostileServer]:
    """A server of ANSWERS."""
    server = HostileServer(ANSWERS[name])
    try:
        yield server
    finally:
        server.close()
