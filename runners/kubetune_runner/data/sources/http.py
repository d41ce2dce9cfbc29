"""One file behind an address: fetched to disk, within limits of size and time."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from kubetune.api.kinds.dataset.sources import HttpSource
from kubetune.api.run.plan import WORK_DIRECTORY, in_container

from kubetune_runner.data.items import Source, SourceFile
from kubetune_runner.data.sources import Reader
from kubetune_runner.data.splits import TRAIN
from kubetune_runner.errors import RunError

if TYPE_CHECKING:
    import requests

LIMIT_BYTES = 64 * 1024**3
LIMIT_SECONDS = 3600.0
REDIRECTS = 5
CHUNK_BYTES = 1024 * 1024
_TIMEOUTS = (10.0, 60.0)
"""Seconds to connect, and without a byte."""


@contextmanager
def opened(source: HttpSource, _reader: Reader) -> Generator[Source]:
    """The file, on disk for as long as the context lasts."""
    work = in_container(WORK_DIRECTORY)
    with TemporaryDirectory(dir=work if work.is_dir() else None) as folder:
        path = Path(folder) / "rows"
        name = download(source.url, path)
        yield Source({TRAIN: [SourceFile(name, path, source.format, source.delimiter)]})


def download(url: str, target: Path, *, limit_bytes: int = LIMIT_BYTES) -> str:
    """Write the file behind the address to ``target``; returns its name.

    Raises RunError HttpRefused (the address is at fault), HttpUnreachable (retryable),
    HttpTooLarge or HttpTooSlow (retryable).
    """
    import requests

    deadline = time.monotonic() + LIMIT_SECONDS
    # Addresses may be signed, so messages show neither query nor user.
    shown = _public(url)
    try:
        with requests.Session() as session, _open(session, url, shown) as response:
            _check_status(response, shown)
            written = 0
            with target.open("wb") as stream:
                for chunk in response.iter_content(CHUNK_BYTES):
                    written += len(chunk)
                    if written > limit_bytes:
                        raise RunError(
                            "HttpTooLarge",
                            f"{shown} has more than {limit_bytes:,} bytes; put it on a volume or"
                            " into a hub repository",
                        )
                    if time.monotonic() > deadline:
                        raise RunError(
                            "HttpTooSlow",
                            f"{shown} took longer than {LIMIT_SECONDS:.0f} s to download",
                            retryable=True,
                        )
                    stream.write(chunk)
            length = response.headers.get("Content-Length")
            if length and not response.headers.get("Content-Encoding") and written < int(length):
                raise RunError(
                    "HttpUnreachable",
                    f"{shown} broke off after {written:,} of {int(length):,} bytes",
                    retryable=True,
                )
    except requests.RequestException as error:
        raise RunError(
            "HttpUnreachable",
            f"{shown} can't be read ({error.__class__.__name__}); check source.http.url, the"
            " network and the proxy in the compute target's env",
            retryable=True,
        ) from error
    return unquote(PurePosixPath(urlsplit(url).path).name) or "rows"


def _public(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"[:300]


def _open(session: requests.Session, url: str, shown: str) -> requests.Response:
    """Follow a few redirects, never from https to http."""
    for _ in range(REDIRECTS + 1):
        response = session.get(url, stream=True, timeout=_TIMEOUTS, allow_redirects=False)
        location = response.headers.get("Location")
        if not response.is_redirect or not location:
            return response
        response.close()
        following = urljoin(url, location)
        if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
            raise RunError("HttpRefused", f"{shown} redirects from https to {_public(following)}")
        url = following
    raise RunError("HttpRefused", f"{shown} redirects more than {REDIRECTS} times")


def _check_status(response: requests.Response, shown: str) -> None:
    status = response.status_code
    if status < 400:
        return
    if status in (408, 425, 429) or status >= 500:
        raise RunError("HttpUnreachable", f"{shown} answers {status}", retryable=True)
    hint = {
        401: "it needs credentials, which an address can't carry; use a volume",
        403: "access is denied; use an address that needs no credentials, or a volume",
        404: "there is no such file; check source.http.url",
    }.get(status, "check source.http.url")
    raise RunError("HttpRefused", f"{shown} answers {status}: {hint}")
