"""Experiments and the model registry: a real MLflow store, which workloads share by a plugin.

MLflow is heavy: it is imported at the first use, and only blocking operations come here.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kubetune_devcluster.cml.server.place import Place
from kubetune_devcluster.cml.server.records import Run
from kubetune_devcluster.cml.server.scripts import Script
from kubetune_devcluster.cml.server.statuses import FAILED, STOPPED, SUCCEEDED
from kubetune_devcluster.mlflow_database import artifacts, database, prepare

_STATUS = {SUCCEEDED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}


def stored_name(project_id: str, name: str) -> str:
    """The name of a project's experiment in the store, where names are for all projects."""
    return f"{project_id}/{name}"


def local_path(uri: str) -> Path:
    """The folder of a file address."""
    return Path(unquote(urlsplit(uri).path))


@dataclass
class Tracked:
    """How far a scripted run has been written."""

    mlflow_id: str
    metrics: int = 0
    over: bool = False


class Tracking:
    """The stores of a workspace."""

    def __init__(self, workspace: Place) -> None:
        self._workspace = workspace
        self._lock = threading.RLock()
        self._store: Any = None
        self._registry: Any = None
        self._tracked: dict[str, Tracked] = {}

    @property
    def store(self) -> Any:
        """MLflow's tracking store."""
        with self._lock:
            if self._store is None:
                from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

                folder = self._workspace.folder
                prepare(folder, artifacts(folder), make=True)
                self._store = SqlAlchemyStore(database(folder), artifacts(folder))
            return self._store

    @property
    def registry(self) -> Any:
        """MLflow's model registry, in the same database."""
        with self._lock:
            if self._registry is None:
                from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

                # The tracking store makes the tables.
                assert self.store
                self._registry = SqlAlchemyStore(database(self._workspace.folder))
            return self._registry

    def experiment(self, project_id: str, name: str) -> str:
        """The id of a project's experiment, made when it is missing."""
        with self._lock:
            found = self.store.get_experiment_by_name(stored_name(project_id, name))
            if found is None:
                return str(self.store.create_experiment(stored_name(project_id, name)))
            return str(found.experiment_id)

    def copy_artifacts(self, source: Path) -> Path:
        """A copy of a run's folder for the registry."""
        target = self._workspace.folder / "registry" / uuid.uuid4().hex
        shutil.copytree(source, target)
        return target

    def catch_up(self) -> None:
        """Write what scripted runs have logged by now."""
        with self._lock:
            # MLflow takes its time; the other operations must not wait for it.
            with self._workspace.lock:
                self._workspace.settle()
                now = self._workspace.clock.now()
                runs = [replace(run) for run in self._workspace.runs.values()]
            for run in runs:
                script = run.script
                if script is None or not script.tracked or run.running is None:
                    continue
                tracked = self._tracked.get(run.id)
                if tracked is None:
                    tracked = self._tracked[run.id] = Tracked(self._start(run, script))
                if not tracked.over:
                    self._write(run, script, tracked, now)

    def _start(self, run: Run, script: Script) -> str:
        experiment = self.experiment(run.project_id, script.experiment)
        start = int((run.running or 0) * 1000)
        made = self.store.create_run(experiment, "trainer", start, _tags(script.tags), run.job_name)
        return str(made.info.run_id)

    def _write(self, run: Run, script: Script, tracked: Tracked, now: float) -> None:
        from mlflow.entities import Metric, RunStatus

        start = run.running or 0.0
        until = min(now, run.finished or now)
        due = sorted(script.metrics)[tracked.metrics :]
        due = [metric for metric in due if start + metric[0] <= until]
        final = _tags(script.final_tags) if run.status == SUCCEEDED else []
        metrics = [
            Metric(key, value, int((start + after) * 1000), step) for after, key, value, step in due
        ]
        if metrics or final:
            self.store.log_batch(tracked.mlflow_id, metrics=metrics, params=[], tags=final)
        tracked.metrics += len(due)
        if run.active:
            return
        if run.status == SUCCEEDED:
            root = local_path(self.store.get_run(tracked.mlflow_id).info.artifact_uri)
            for name, content in script.artifacts.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        status = RunStatus.from_string(_STATUS.get(run.status, "FAILED"))
        self.store.update_run_info(
            tracked.mlflow_id, status, int((run.finished or now) * 1000), None
        )
        tracked.over = True


def _tags(pairs: Any) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in pairs.items()]
