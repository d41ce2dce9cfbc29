"""The calls of an inspection through MLflow's client, for servers that a plugin speaks to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kubetune.api.run.plan import TAG_RUN_KEY

from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.tracking_api import MlflowError

T = TypeVar("T")

_STATUS = {"RESOURCE_DOES_NOT_EXIST": 404, "NOT_FOUND": 404, "INVALID_PARAMETER_VALUE": 400}


class PluginApi:
    """A tracking server with its model registry, as ``TrackingApi``.

    The root of a run's artifacts is the run's id.
    """

    def __init__(self, uri: str) -> None:
        self._client: Any = _call(lambda: mlflow_client.connect(uri))

    def experiment(self, name: str) -> str:
        """Id of the experiment, created where it is missing."""
        return _call(lambda: mlflow_client.experiment_id(self._client, name))

    def find_run(self, experiment: str, tag: str, value: str) -> tuple[str, str] | None:
        """The run with the run key, twice."""
        assert tag == TAG_RUN_KEY, tag
        run = _call(lambda: mlflow_client.find_run(self._client, experiment, value))
        return (run.info.run_id, run.info.run_id) if run else None

    def create_run(self, experiment: str, name: str, tags: dict[str, str]) -> tuple[str, str]:
        """Id of a new run, twice."""
        run = _call(lambda: self._client.create_run(experiment, tags=tags, run_name=name))
        return run.info.run_id, run.info.run_id

    def finish_run(self, run_id: str) -> None:
        """End the run well."""
        _call(lambda: self._client.set_terminated(run_id, "FINISHED"))

    def put_artifact(self, root: str, name: str, document: Any) -> None:
        """Store a JSON document among the run's artifacts."""
        _call(lambda: self._client.log_dict(root, document, name))

    def put_text(self, root: str, name: str, text: str) -> None:
        """Store a text among the run's artifacts."""
        _call(lambda: self._client.log_text(root, text, name))

    def version(self, name: str, version: str | None, alias: str | None) -> str:
        """The version number behind a version or an alias; raises MlflowError with 404."""
        if alias is not None:
            found = _call(lambda: self._client.get_model_version_by_alias(name, alias))
        else:
            found = _call(lambda: self._client.get_model_version(name, version))
        return str(found.version)

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        """Tags of a registered version."""
        return dict(_call(lambda: self._client.get_model_version(name, version)).tags or {})


def _call(call: Callable[[], T]) -> T:
    """Call MLflow; plugins raise what they like. Raises MlflowError."""
    try:
        return mlflow_client.retried(call)
    except RunError as error:
        raise MlflowError(error.message) from error
    except ImportError as error:
        raise MlflowError(f"MLflow isn't in this runtime: {error}") from error
    except Exception as error:
        status = _STATUS.get(str(getattr(error, "error_code", None)))
        raise MlflowError(mlflow_client.first_line(error), status) from error
