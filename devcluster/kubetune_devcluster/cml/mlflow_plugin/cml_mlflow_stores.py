"""The stores behind ``cml://``.

Like the tracking of a workspace they know experiments, runs and their files, but no logged
models, and an experiment's name counts within its project.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

# The simulator sets both for its workloads.
STORE_VARIABLE = "CML_SIMULATOR_STORE"
PROJECT_VARIABLE = "CDSW_PROJECT_ID"


def _folder() -> Path:
    return Path(_variable(STORE_VARIABLE)).resolve()


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise MlflowException(f"cml:// works only inside a workload: {name} is not set")
    return value


def _database() -> str:
    return f"sqlite:///{_folder() / 'mlflow.db'}"


class TrackingStore(Tracking):
    """The experiments of the workload's project."""

    def __init__(self, store_uri: str | None = None, artifact_uri: str | None = None) -> None:
        self._prefix = _variable(PROJECT_VARIABLE) + "/"
        super().__init__(_database(), (_folder() / "artifacts").as_uri())

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: Any = None
    ) -> Any:
        return super().create_experiment(self._prefix + name, artifact_location, tags)

    def get_experiment(self, experiment_id: str) -> Any:
        return self._named(super().get_experiment(experiment_id))

    def get_experiment_by_name(self, experiment_name: str) -> Any:
        return self._named(super().get_experiment_by_name(self._prefix + experiment_name))

    def search_experiments(self, *args: Any, **options: Any) -> Any:
        page = super().search_experiments(*args, **options)
        page[:] = [self._named(one) for one in page if one.name.startswith(self._prefix)]
        return page

    def rename_experiment(self, experiment_id: str, new_name: str) -> None:
        super().rename_experiment(experiment_id, self._prefix + new_name)

    def _named(self, experiment: Any) -> Any:
        if experiment is not None:
            experiment._name = experiment.name.removeprefix(self._prefix)
        return experiment

    def create_logged_model(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def get_logged_model(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def search_logged_models(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def finalize_logged_model(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def delete_logged_model(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def set_logged_model_tags(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def delete_logged_model_tag(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def log_logged_model_params(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def record_logged_model(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()

    def log_outputs(self, *_: Any, **__: Any) -> Any:
        raise _no_logged_models()


class RegistryStore(Registry):
    """The workspace's model registry."""

    def __init__(self, store_uri: str | None = None, tracking_uri: str | None = None) -> None:
        # The tracking store makes the tables.
        TrackingStore()
        super().__init__(_database())


def _no_logged_models() -> MlflowException:
    return MlflowException(
        "the tracking of this workspace has no logged models", error_code=ENDPOINT_NOT_FOUND
    )
