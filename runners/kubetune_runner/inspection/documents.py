"""The small files of a model: texts, and JSON objects."""

from __future__ import annotations

from typing import Any, cast

from kubetune.api.bounded import DOCUMENT, json_value

from kubetune_runner.errors import RunError
from kubetune_runner.inspection.model_files import ModelFiles
from kubetune_runner.mlflow.tracking_api import MlflowError


def text_of(files: ModelFiles, name: str) -> str:
    """A text among the files. Raises RunError ModelFilesInvalid and RegistryUnreachable."""
    try:
        return files.text(name)
    except MlflowError as error:
        raise unreachable(files, name, error) from error
    except ValueError as error:
        raise RunError("ModelFilesInvalid", f"{name} of {files.place} isn't UTF-8 text") from error


def json_of(files: ModelFiles, name: str, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object among the files. Raises RunError ModelFilesInvalid."""
    if missing is not None and name not in files.sizes:
        return missing
    text = text_of(files, name)
    try:
        document: Any = json_value(text, DOCUMENT)
    except ValueError as error:
        raise RunError("ModelFilesInvalid", f"{name} of {files.place} isn't JSON") from error
    if not isinstance(document, dict):
        raise RunError("ModelFilesInvalid", f"{name} of {files.place} isn't a JSON object")
    return cast("dict[str, Any]", document)


def unreachable(files: ModelFiles, name: str, error: MlflowError) -> RunError:
    """What is told of a file that its server doesn't give."""
    return RunError(
        "RegistryUnreachable",
        f"{name} of {files.place} can't be read: {error}; check the compute target's tracking",
        retryable=True,
    )
