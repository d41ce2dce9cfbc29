"""The candidate: a base model, a full one, or an adapter on its base, found, checked and loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import ENV_BASE_MODEL_TOKEN, ModelPlan
from kubetune.api.run.training_plan import TokenizerPlan

from kubetune_runner.answering.embeddings import fit_embeddings
from kubetune_runner.answering.folder import IN_CLUSTER
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.adapter import check_fits
from kubetune_runner.inspection.safetensors import Tensors, file_chunks, parse_header
from kubetune_runner.model import adapter_files, loading
from kubetune_runner.stages import UNWATCHED, Watch

MAX_ERROR = 500
OWN_DESCRIPTION = "kubetune.json"
"""Beside weights that a FineTuneJob made (``loader.DESCRIPTION``)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """Files of a candidate, checked as far as files can tell."""

    model: ModelPlan
    """The base of an adapter, else the candidate itself."""
    folder: Path
    adapter: Path | None
    tokenizer: Any
    context: int | None
    """Longest sequence in tokens."""


def find(
    plan: ModelPlan, change: TokenizerPlan | None = None, watch: Watch = UNWATCHED
) -> Candidate:
    """Fetch and check the candidate's files; no torch. ``change`` is for its tokenizer.

    Raises RunError: BaseModelMissing, BaseModelMismatch, and those of ``loading.fetch``.
    """
    if plan.type != "adapter":
        folder = loading.fetch(plan, watch=watch)
        tokenizer = loading.load_tokenizer(plan, folder, change)
        return Candidate(plan, folder, None, tokenizer, loading.context_length(folder))
    if plan.base is None:
        raise RunError(
            "BaseModelMissing",
            f"model {plan.name} is an adapter without a base model: set baseModelRef in the Model",
        )
    adapter = loading.fetch(plan, watch=watch)
    _check_base(plan, plan.base, adapter)
    folder = loading.fetch(plan.base, ENV_BASE_MODEL_TOKEN, watch)
    _check_shapes(plan.base, folder, adapter)
    # An adapter that was trained with other special tokens or another chat template brings them.
    own = (adapter / "tokenizer_config.json").is_file()
    return Candidate(
        plan.base,
        folder,
        adapter,
        loading.load_tokenizer(plan if own else plan.base, adapter if own else folder, change),
        loading.context_length(folder),
    )


def load(candidate: Candidate, dtype: Any, quantized: Any = None) -> Any:
    """The model on the device, ready to be measured.

    ``quantized`` is ``quantization.configuration`` or None.

    Raises RunError: ModelUnreadable, BaseModelMismatch.
    """
    import torch

    from kubetune_runner.model import heads, shortcuts

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = loading.load_model(candidate.model, candidate.folder, dtype, quantized)
    if not getattr(model, "is_quantized", False):
        model.to(device)
    heads.add(model)
    if candidate.adapter is not None:
        model = _with_adapter(candidate.model, model, candidate.adapter)
    model.eval()
    shortcuts.settle(model, candidate.tokenizer)
    return model


def _check_base(plan: ModelPlan, base: ModelPlan, adapter: Path) -> None:
    """Compare the base that the adapter's files name with the one of the plan.

    Files of others may name a copy or a quantized form of the same model, so only what kubetune
    itself wrote is taken at its word.
    """
    config = _json(adapter / "adapter_config.json")
    named, given = str(config.get("base_model_name_or_path") or ""), loading.reference(base)[0]
    # A folder is mounted wherever it is needed: its path says nothing.
    if not named or named.startswith(("/", *IN_CLUSTER)) or base.directory is not None:
        return
    if _comparable(named) == _comparable(given):
        return
    if not (adapter / OWN_DESCRIPTION).is_file() or (named.startswith("models:/")) != (
        given.startswith("models:/")
    ):
        log.warning("adapter %s names base model %s, it is put on %s", plan.name, named, given)
        return
    raise RunError(
        "BaseModelMismatch",
        f"adapter {plan.name} was trained on {named}, but its base model here is {given}: set"
        " spec.baseModelRef of the Model to the model it was trained on",
    )


def _comparable(name: str) -> str:
    return name.casefold()


def _check_shapes(base: ModelPlan, folder: Path, adapter: Path) -> None:
    """Compare the weights' shapes, where both are safetensors."""
    weights = adapter / adapter_files.WEIGHTS
    if not weights.is_file() or "quantization_config" in _json(folder / "config.json"):
        return
    base_tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        base_tensors |= _tensors(base, path)
    if base_tensors:
        check_fits(_tensors(base, weights), base_tensors, base.name)


def _tensors(model: ModelPlan, path: Path) -> Tensors:
    try:
        return parse_header(file_chunks(path), path.stat().st_size)
    except ValueError as error:
        raise RunError("ModelFilesInvalid", f"{path.name} of model {model.name} {error}") from error


def _with_adapter(base: ModelPlan, model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    fit_embeddings(model, adapter)
    try:
        adapted: Any = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        # torch names the tensors and their sizes in lines of their own.
        text = " ".join(str(error).split())[:MAX_ERROR]
        raise RunError(
            "BaseModelMismatch",
            f"the adapter can't be put on base model {base.name} ({type(error).__name__}: {text}):"
            " set spec.baseModelRef of the Model to the model it was trained on",
        ) from error
    if missing := adapter_files.left_out(adapted, adapter):
        raise RunError(
            "BaseModelMismatch",
            f"the adapter has no weights for {len(missing)} layers of base model {base.name},"
            f" such as {missing[0]}: set spec.baseModelRef of the Model to the model it was"
            " trained on",
        )
    return adapted


def _json(path: Path) -> dict[str, Any]:
    try:
        document: Any = json_file(path)
    except ValueError as error:
        raise RunError("ModelFilesInvalid", f"{path.name} isn't JSON: {error}") from error
    return document if isinstance(document, dict) else {}
