"""Packs a result as a model that pyfunc loads, lists its files, and stores it in MLflow.

It becomes a logged model or, where the server keeps none, a folder among the run's artifacts. The
list is written last, over all that MLflow has put together, so it is stored as it was listed.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file

from kubetune_runner.answering.folder import CONFIG_BASE_MODEL, DESCRIPTION
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.stored_code import stored_code
from kubetune_runner.model import file_list

PACKAGES = ("mlflow", "torch", "transformers", "peft")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """What was stored."""

    model_id: str | None
    """Of the logged model; None where it is a folder among the run's artifacts."""
    listed: file_list.FileList


class _Pyfunc:
    """MLflow's flavor of this name, which lists what it has put together."""

    __name__ = "pyfunc.ModelFromCode"
    """As MLflow shows it."""

    def __init__(self) -> None:
        self._listed: file_list.FileList | None = None

    @property
    def listed(self) -> file_list.FileList:
        """Of the model that was saved."""
        assert self._listed is not None, "nothing was saved"
        return self._listed

    def save_model(self, path: str, **options: Any) -> None:
        """Write the model into a new folder."""
        import mlflow

        mlflow.pyfunc.save_model(path=path, **options)
        # MLflow has run the loader, which leaves compiled code that it doesn't always take away.
        for compiled in [*Path(path).rglob("__pycache__")]:
            shutil.rmtree(compiled)
        self._listed = file_list.write(Path(path))


def store(client: Any, run_id: str, folder: Path, name: str) -> Stored:
    """Store the folder as a model of a run."""
    if not mlflow_client.in_workspace(client.tracking_uri):
        try:
            return _log_model(run_id, folder, name)
        except Exception as error:
            # Only the server's own words count: a TypeError here would be a mistake of ours.
            if not hasattr(error, "error_code") or not mlflow_client.is_unsupported(error):
                raise
            log.info(
                "the tracking server keeps no logged models (%s): the model goes to the run's"
                " artifacts",
                mlflow_client.first_line(error),
            )
    return _log_files(client, run_id, folder, name)


def _log_model(run_id: str, folder: Path, name: str) -> Stored:
    import mlflow
    from mlflow.models import Model

    flavor = _Pyfunc()
    with mlflow.start_run(run_id=run_id), stored_code() as code:
        info = Model.log(None, flavor, name=name, **code, **_options(folder))
    return Stored(info.model_id, flavor.listed)


def _log_files(client: Any, run_id: str, folder: Path, name: str) -> Stored:
    """Put the model together in a folder, and upload that to the run's artifacts."""
    from mlflow.models import Model

    packed = folder.parent / "packed"
    shutil.rmtree(packed, ignore_errors=True)
    flavor = _Pyfunc()
    try:
        with stored_code() as code:
            flavor.save_model(
                path=str(packed),
                mlflow_model=Model(artifact_path=name, run_id=run_id),
                **code,
                **_options(folder),
            )
        client.log_artifacts(run_id, str(packed), name)
    finally:
        shutil.rmtree(packed, ignore_errors=True)
    return Stored(None, flavor.listed)


def _options(folder: Path) -> dict[str, Any]:
    """How pyfunc loads the folder."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    # Without a schema of its inputs, which would turn chats into text.
    if json_file(folder / DESCRIPTION).get("scores"):
        signature = ModelSignature(outputs=Schema([ColSpec("double")]))
    else:
        signature = ModelSignature(
            outputs=Schema([ColSpec("string")]),
            params=ParamSchema([ParamSpec("max_new_tokens", "integer", 0)]),
        )
    return {
        "artifacts": {folder.name: str(folder)},
        "signature": signature,
        # What isn't here, MLflow doesn't let a user set when loading.
        "model_config": {CONFIG_BASE_MODEL: ""},
        # Given, since MLflow would load the model once more to find them out.
        "pip_requirements": [f"{name}=={version(name)}" for name in PACKAGES],
    }
