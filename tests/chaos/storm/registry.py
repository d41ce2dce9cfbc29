"""What MLflow's own database says: versions, and each move of an alias that ever was."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator

from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.mlflow_database import database

EVENTS = ("INSERT", "UPDATE")
CURRENT = "current_stage IS NULL OR current_stage != 'Deleted_Internal'"


class Registry:
    """The registry of a cluster's MLflow, read past its server."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._file = database(cluster.home / "mlflow").removeprefix("sqlite:///")

    @contextlib.contextmanager
    def noting_moves(self) -> Generator[Registry]:
        """Have the database note within the block where aliases go."""
        with self._opened() as connection:
            connection.execute(
                "CREATE TABLE alias_moves (at INTEGER PRIMARY KEY, name TEXT, version INTEGER)"
            )
            for event in EVENTS:
                connection.execute(
                    f"CREATE TRIGGER alias_{event} AFTER {event} ON registered_model_aliases BEGIN"
                    " INSERT INTO alias_moves (name, version) VALUES (NEW.name, NEW.version); END"
                )
        try:
            yield self
        finally:
            with self._opened() as connection:
                for event in EVENTS:
                    connection.execute(f"DROP TRIGGER alias_{event}")
                connection.execute("DROP TABLE alias_moves")

    def moves(self, name: str) -> list[int]:
        """The versions to which the alias of a registered model went, in that order."""
        return self._numbers("SELECT version FROM alias_moves WHERE name = ? ORDER BY at", name)

    def versions(self, name: str) -> list[int]:
        """The versions of a registered model."""
        question = f"SELECT version FROM model_versions WHERE name = ? AND ({CURRENT})"
        return self._numbers(f"{question} ORDER BY version", name)

    def _numbers(self, question: str, name: str) -> list[int]:
        with self._opened() as connection:
            return [int(row[0]) for row in connection.execute(question, (name,))]

    @contextlib.contextmanager
    def _opened(self) -> Generator[sqlite3.Connection]:
        connection = sqlite3.connect(self._file, timeout=30)
        with contextlib.closing(connection), connection:
            yield connection
