"""Fetch one pinned file of Maven Central, the way this machine is set up to reach it."""

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

CENTRAL = "https://repo1.maven.org/maven2"


class MavenError(Exception):
    """A file can't be had; the message says which and what to do."""


def fetch(path: str, sha256: str, target: Path) -> Path:
    """The file of a Maven repository's ``path`` as ``target``, which may exist already.

    Taken from the local repository when it has the file, else from the mirror in
    ``MAVEN_MIRROR_URL``, the mirror of Central in ``~/.m2/settings.xml``, or Central.
    """
    if _matches(target, sha256):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        part = Path(folder) / target.name
        local = Path.home() / ".m2" / "repository" / path
        if _matches(local, sha256):
            shutil.copyfile(local, part)
        else:
            _download(f"{repository()}/{path}", part)
        if not _matches(part, sha256):
            raise MavenError(
                f"{target.name} has another SHA-256 than the pinned {sha256}; the repository or "
                "a proxy on the way changed it"
            )
        part.replace(target)
    return target


def repository() -> str:
    """The repository to ask, without a slash at the end."""
    if url := os.environ.get("MAVEN_MIRROR_URL"):
        return url.rstrip("/")
    settings = Path.home() / ".m2" / "settings.xml"
    if settings.is_file():
        # The user's own file.
        tree = ElementTree.parse(settings)  # noqa: S314
        for mirror in tree.iterfind("{*}mirrors/{*}mirror"):
            of = (mirror.findtext("{*}mirrorOf") or "").replace(" ", "").split(",")
            url = (mirror.findtext("{*}url") or "").strip()
            if url and "!central" not in of and {"central", "*", "external:*"} & set(of):
                return url.rstrip("/")
    return CENTRAL


def _download(url: str, target: Path) -> None:
    try:
        with (
            urllib.request.urlopen(url, timeout=120) as answer,  # noqa: S310 (pinned by its hash)
            target.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise MavenError(
            f"{url} can't be fetched ({error}); set MAVEN_MIRROR_URL to a repository that this "
            f"machine reaches, or put {target.name} into ~/.m2/repository"
        ) from error


def _matches(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
