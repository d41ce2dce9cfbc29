"""Where tables stay: below the model cache, a folder for each, found by what it was made of.

A folder is written under another name and renamed when all is on the disk, so that nobody sees
half of it. A lock keeps others from making the same meanwhile; nothing depends on it but their
time. What is found is compared with the checksums that it was written with.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import WORK_DIRECTORY, in_container

from kubetune_runner.text.encoding import Counts
from kubetune_runner.tokenized.making import SPLITS, Made, file_of

log = logging.getLogger(__name__)

FOLDER = "kubetune-rows"
MANIFEST = "table.json"
SHARE = 4
"""All tables together may take one part in so many of the volume."""
MOST_BYTES = 256 * 1024**3
FORGOTTEN_SECONDS = 24 * 3600.0
"""What was begun so long ago was left behind."""
_HALF, _LOCK = ".making-", ".lock"
_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 60.0
"""A lock that nobody has touched for so long belongs to nobody any more."""
_PAUSE_SECONDS = 0.5
_SAID_SECONDS = 15.0
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """Tables that are there."""

    folder: Path
    made: Made
    keep: object = None
    """Lives for as long as the tables are needed."""


class Store:
    """The tables below a folder; None: each run has its own, which ends with it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def of_environment() -> Store:
        """Below HF_HOME, which is the model cache of the target or the run's own disk."""
        home = os.environ.get("HF_HOME")
        return Store(Path(home) / FOLDER if home else None)

    def find(self, key: str) -> Entry | None:
        """The tables of a key, if they are whole."""
        if self.folder is None:
            return None
        folder = self.folder / key
        try:
            document: Any = json_file(folder / MANIFEST)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s can't be read, and is made again: %s", folder, error)
            return None
        try:
            made = _read(document)
            for name, expected in document["files"].items():
                if checksum(folder / name) != expected:
                    raise ValueError(f"{name} isn't what was written")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged, and is made again: %s", folder, error)
            return None
        # So that those go first which nobody has used for long.
        with contextlib.suppress(OSError):
            os.utime(folder / MANIFEST)
        return Entry(folder, made)

    def make_room(self, size: int) -> None:
        """For tables that will take about as many bytes."""
        if self.folder is not None and self.folder.is_dir():
            evict(self.folder, size)

    def get(self, key: str, make: Callable[[Path], Made]) -> Entry:
        """The tables of a key, made by ``make`` in the folder that it is given if there are none.

        Only one of all that share the store makes them; the others wait for it.
        """
        if self.folder is None:
            return _alone(make)
        waiting = _Waiting(self.folder / f"{key}{_LOCK}")
        while True:
            if found := self.find(key):
                log.info("token ids of the rows were made before: %s", found.folder)
                return found
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = waiting.taken()
            except OSError as error:
                log.info(
                    "%s can't be written (%s): this run keeps its rows to itself",
                    self.folder,
                    error.strerror,
                )
                return _alone(make)
            if lock is None:
                time.sleep(_PAUSE_SECONDS)
                continue
            with lock:
                # Whoever had the lock before may have made them.
                return self.find(key) or self._make(key, make)

    def _make(self, key: str, make: Callable[[Path], Made]) -> Entry:
        assert self.folder is not None
        half = self.folder / f"{_HALF}{key[:16]}-{uuid4().hex}"
        try:
            half.mkdir()
        except OSError as error:
            log.info("%s can't be written: %s", self.folder, error.strerror)
            return _alone(make)
        try:
            made = make(half)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        try:
            return Entry(self._publish(key, half, made), made)
        except OSError as error:
            log.warning("the token ids aren't kept for others: %s", error)
            return Entry(half, made, _Scratch(half))

    def _publish(self, key: str, half: Path, made: Made) -> Path:
        assert self.folder is not None
        _write_manifest(half, made)
        final = self.folder / key
        if final.exists():
            # It is damaged, or somebody has made the same.
            away = self.folder / f"{_HALF}{uuid4().hex}"
            with contextlib.suppress(FileNotFoundError):
                final.rename(away)
            shutil.rmtree(away, ignore_errors=True)
        half.rename(final)
        return final


def evict(folder: Path, room: int) -> None:
    """Delete the tables that were not used for longest, until there is room for as many bytes."""
    disk = shutil.disk_usage(folder)
    limit = min(MOST_BYTES, disk.total // SHARE)
    now = time.time()
    kept: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            is_half = path.name.startswith(_HALF)
            if is_half and now - path.stat().st_mtime > FORGOTTEN_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not is_half:
                size = sum(each.stat().st_size for each in path.iterdir())
                used = path / MANIFEST
                kept.append((used.stat().st_mtime if used.exists() else 0.0, size, path))
    total, free = sum(size for _, size, _ in kept), disk.free
    for _, size, path in sorted(kept):
        if total + room <= limit and room <= free:
            return
        log.info("%s makes room: nobody has used it for longest", path)
        shutil.rmtree(path, ignore_errors=True)
        total, free = total - size, free + size


def checksum(path: Path) -> str:
    """Size and content of a file, in a form that tells damage and not intent."""
    import xxhash

    found = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
            size += len(chunk)
    return f"{size}:{found.hexdigest()}"


def _write_manifest(folder: Path, made: Made) -> None:
    names = [file_of(split) for split in SPLITS]
    document = {**asdict(made), "files": {name: checksum(folder / name) for name in names}}
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(document, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _read(document: Any) -> Made:
    fields = cast("dict[str, Any]", document)
    counts = {split: Counts(**fields["counts"][split]) for split in SPLITS}
    return Made(counts, bool(fields["chat"]), int(fields["rows"]), bool(fields["all_measured"]))


class _Scratch:
    """A folder of this process alone, which is deleted with it."""

    def __init__(self, folder: Path) -> None:
        import weakref

        self.folder = folder
        self._finalizer = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


def _alone(make: Callable[[Path], Made]) -> Entry:
    work = in_container(WORK_DIRECTORY)
    scratch = _Scratch(Path(tempfile.mkdtemp(prefix="rows-", dir=work if work.is_dir() else None)))
    return Entry(scratch.folder, make(scratch.folder), scratch)


class _Waiting:
    """For a lock that another run may have."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._since = self._said = time.monotonic()

    def taken(self) -> contextlib.AbstractContextManager[None] | None:
        """The lock, to be released; None while another run has it. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return _held(self._path)
        now = time.monotonic()
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return None
        seen = (state.st_ino, state.st_mtime_ns)
        if seen != self._seen:
            # Clocks of machines differ, so that only a change tells that somebody is there.
            self._seen, self._since = seen, now
        elif now - self._since > _SILENT_SECONDS:
            log.info("who was tokenizing the same rows is gone")
            with contextlib.suppress(FileNotFoundError):
                self._path.rename(self._path.with_name(f"{_HALF}{uuid4().hex}{_LOCK}"))
            return None
        if now - self._said > _SAID_SECONDS:
            self._said = now
            log.info("waiting for another run that is tokenizing the same rows")
        return None


@contextmanager
def _held(path: Path) -> Generator[None]:
    """Show that somebody is there, until the end of the context."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="rows-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()
