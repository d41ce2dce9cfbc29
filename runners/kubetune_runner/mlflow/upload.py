"""Puts the result into MLflow as a model that pyfunc and peft can both load.

It is a logged model or, where the server keeps none, a folder among the run's artifacts. The
operator registers it; run pods hold no registry rights.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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

from kubetune_runner.answering.folder import DESCRIPTION
from kubetune_runner.answering.shape import Shape
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow import packing
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.model import loading
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

    def store(run_id: str) -> dict[str, Any]:
        known = tracker.known_tags
        if place.id_tag in known or place.path_tag in known:
            # What an earlier attempt has stored was put together at another time.
            model_id, before = known.get(place.id_tag), known.get(place.files_tag)
            files: dict[str, Any] = {"filesDigest": before} if before else {}
        else:
            stored = packing.store(tracker.client, run_id, folder, place.name)
            model_id, files = stored.model_id, stored.listed.summary()
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
