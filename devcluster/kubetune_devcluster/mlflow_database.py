"""An empty MLflow database: made once per cache, since MLflow takes many seconds for one."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
from importlib.metadata import version
from pathlib import Path

from kubetune_devcluster.paths import default_cache


def database(folder: Path) -> str:
    """The address of the database of a folder."""
    return f"sqlite:///{_file(folder)}"


def artifacts(folder: Path) -> str:
    """An address of files in the folder, below which runs may keep theirs."""
    return (folder / "artifacts").resolve().as_uri()


def prepare(folder: Path, location: str, *, make: bool) -> None:
    """Put an empty database into a folder that has none; runs keep their files below ``location``.

    Without ``make`` only when the cache has one; MLflow itself makes it otherwise.
    """
    target = _file(folder)
    template = default_cache() / "mlflow" / f"empty-{version('mlflow')}.db"
    if target.exists() or not (template.exists() or make):
        return
    if not template.exists():
        _make(template)
    part = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.copyfile(template, part)
    with sqlite3.connect(part) as connection:
        # MLflow's default experiment, the only one, is there already.
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{location}/0",))
    connection.close()
    part.replace(target)


def _make(template: Path) -> None:
    template.parent.mkdir(parents=True, exist_ok=True)
    with template.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if template.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with tempfile.TemporaryDirectory(dir=template.parent, prefix=".mlflow-") as made:
            store = SqlAlchemyStore(database(Path(made)), made)
            store.engine.dispose()
            _file(Path(made)).replace(template)


def _file(folder: Path) -> Path:
    return folder.resolve() / "mlflow.db"
