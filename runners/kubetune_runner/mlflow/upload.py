"""Puts the result into MLflow as a model that pyfunc and peft can both load.

It is a logged model or, where the server keeps none, a folder among the run's artifacts. The
operator registers it; run pods hold no registry rights.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import (
    TAG_FILES,
    TAG_MERGED_FILES,
    TAG_MERGED_MODEL_ID,
    TAG_MERGED_MODEL_PATH,
    TAG_MODEL_ID,
    TAG_MODEL_PATH,
    ModelPlan,
)

from kubetune_runner.answering.folder import CONFIG_BASE_MODEL, DESCRIPTION
from kubetune_runner.answering.shape import Shape
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.stored_code import stored_code
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.model import file_list, loading
from kubetune_runner.retrying import longer, repeated
from kubetune_runner.text.answers import shape_of
from kubetune_runner.text.chats import chat_text


@dataclass(frozen=True)
class Place:
    """Where a model goes in its run, and which tags tell that it is there."""

    name: str
    """Name of the logged model, or folder among the run's artifacts."""
    id_tag: str
    path_tag: str
    files_tag: str


RESULT = Place("model", TAG_MODEL_ID, TAG_MODEL_PATH, TAG_FILES)
MERGED = Place("merged", TAG_MERGED_MODEL_ID, TAG_MERGED_MODEL_PATH, TAG_MERGED_FILES)
PATIENCE_SECONDS = 600.0
ENV_PATIENCE = "KUBETUNE_UPLOAD_PATIENCE_SECONDS"
PACKAGES = ("mlflow", "torch", "transformers", "peft")

T = TypeVar("T")

log = logging.getLogger(__name__)


def save(
    model: Any,
    tokenizer: Any,
    base: ModelPlan,
    folder: Path,
    *,
    chat: bool,
    max_new_tokens: int,
    scores: bool = False,
) -> None:
    """Write adapter or model, tokenizer and a description into a folder."""
    if hasattr(model, "peft_config"):
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = loading.reference(base)
        # "auto" would ask the hub for the base model; embeddings are never resized here.
        model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])
    else:
        loading.save_whole(model, folder)
    parameters = (model.get_base_model() if hasattr(model, "peft_config") else model).parameters()
    dtype = next(iter(parameters)).dtype
    describe(tokenizer, dtype, folder, chat=chat, max_new_tokens=max_new_tokens, scores=scores)


def describe(
    tokenizer: Any,
    dtype: Any,
    folder: Path,
    *,
    chat: bool,
    max_new_tokens: int,
    scores: bool = False,
) -> None:
    """Write what else loading needs: the tokenizer, number format and shape of the data."""
    shape = shape_of(tokenizer, chat=chat)
    _save_tokenizer(tokenizer, folder, shape)
    description: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "chat": chat}
    if scores:
        description |= {"scores": True}
    else:
        _save_ends(tokenizer, folder, shape)
        description |= {"maxNewTokens": max_new_tokens, "answer": asdict(shape)}
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def _save_tokenizer(tokenizer: Any, folder: Path, shape: Shape) -> None:
    """Its end token is what ends an answer, unless the chat template uses it for something else."""
    own = tokenizer.eos_token
    if shape.end_tokens:
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        before = chat_text(probe, tokenizer)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(shape.end_tokens[0])
        if chat_text(probe, tokenizer) != before:
            tokenizer.eos_token = own
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.eos_token = own


def _save_ends(tokenizer: Any, folder: Path, shape: Shape) -> None:
    """Tell servers that read the folder what ends an answer."""
    path = folder / "generation_config.json"
    config: dict[str, Any] = json_file(path) if path.is_file() else {}
    given = config.get("eos_token_id")
    known = [
        *shape.end_tokens,
        tokenizer.eos_token_id,
        *(given if isinstance(given, list) else [given]),
    ]
    ends = [end for end in dict.fromkeys(known) if end is not None]
    if ends:
        config["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    config.setdefault("pad_token_id", tokenizer.pad_token_id)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def upload(
    tracker: Tracker, folder: Path, artifacts: dict[str, Any], place: Place = RESULT
) -> dict[str, Any]:
    """Log the folder as a model and ``artifacts`` (file name -> JSON).

    Returns modelId, the id of the logged model, or artifactPath, its folder among the run's
    artifacts, with the digests of its files, and tags the run with them. Raises RunError as
    ``patiently`` does: the checkpoint of the last step is there, so another attempt only uploads.
    """

    listed = file_list.write(folder)

    def store(run_id: str) -> dict[str, Any]:
        files = listed.summary()
        model_id = tracker.known_tags.get(place.id_tag)
        if model_id is None and place.path_tag not in tracker.known_tags:
            model_id = _store(tracker.client, run_id, folder, place.name)
        elif (before := tracker.known_tags.get(place.files_tag)) != listed.digest:
            # An earlier attempt has stored others, such as a card with other words.
            files = {"filesDigest": before} if before else {}
        told = {place.files_tag: files["filesDigest"]} if files else {}
        for name, document in artifacts.items():
            tracker.client.log_dict(run_id, document, name)
        if model_id is None:
            tracker.tags({place.path_tag: place.name, **told})
            return {"artifactPath": place.name, **files}
        tracker.tags({place.id_tag: model_id, **told})
        return {"modelId": model_id, **files}

    return patiently(
        tracker, store, "the model is trained but can't be uploaded", "another attempt uploads it"
    )


def patiently(tracker: Tracker, store: Callable[[str], T], problem: str, way_out: str) -> T:
    """Call ``store(run_id)``, again and again while MLflow is away.

    Raises RunError TrackingUnavailable (retryable) when that takes too long, and UploadFailed at
    once when the fault is here, such as a missing file or a full disk.
    """
    end = time.monotonic() + float(os.environ.get(ENV_PATIENCE, PATIENCE_SECONDS))
    # A server may take longer to store a large file than to answer a question.
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "120"

    def once() -> T:
        run_id = tracker.wait_run(max(0.0, min(5.0, end - time.monotonic())))
        tracker.check()
        if run_id is None:
            raise ConnectionError("the tracking server can't be reached")
        return store(run_id)

    try:
        return repeated(
            once,
            may_pass=_may_pass,
            pause=lambda _, tries: longer(1.0, tries, 30.0),
            until=end,
            tell=lambda error, _: log.warning("upload failed, trying again: %s", error),
        )
    except RunError:
        raise
    except Exception as error:
        if mlflow_client.is_elsewhere(error):
            raise RunError(
                "TrackingUnavailable",
                f"{problem} to MLflow: {str(error).splitlines()[0][:300]}; {way_out}",
                retryable=True,
            ) from error
        raise RunError(
            "UploadFailed",
            f"{problem}: {mlflow_client.first_line(error)}; {way_out}",
            # Another attempt has other files and another disk, but the same code.
            retryable=isinstance(error, OSError),
        ) from error


def _may_pass(error: BaseException) -> bool:
    # What is refused in the user's words already is final.
    return not isinstance(error, RunError) and mlflow_client.is_elsewhere(error)


def _store(client: Any, run_id: str, folder: Path, name: str) -> str | None:
    """Store the model; returns its id as a logged model, or None."""
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
    _log_files(client, run_id, folder, name)
    return None


def _log_model(run_id: str, folder: Path, name: str) -> str:
    import mlflow

    with mlflow.start_run(run_id=run_id), stored_code() as code:
        info = mlflow.pyfunc.log_model(name=name, **code, **_flavor(folder))
    return info.model_id


def _log_files(client: Any, run_id: str, folder: Path, name: str) -> None:
    """Put the model together in a folder, and upload that to the run's artifacts."""
    import mlflow
    from mlflow.models import Model

    packed = folder.parent / "packed"
    shutil.rmtree(packed, ignore_errors=True)
    try:
        with stored_code() as code:
            mlflow.pyfunc.save_model(
                path=str(packed),
                mlflow_model=Model(artifact_path=name, run_id=run_id),
                **code,
                **_flavor(folder),
            )
        client.log_artifacts(run_id, str(packed), name)
    finally:
        shutil.rmtree(packed, ignore_errors=True)


def _flavor(folder: Path) -> dict[str, Any]:
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
