"""Kind inspectModel: what a model is, from its configuration, tokenizer and weight headers."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from typing import Any, cast

from kubetune.api.kinds.inspection import MAX_MODULES, ModelInspection
from kubetune.api.run.plan import (
    ENV_BASE_MODEL_TOKEN,
    ENV_MODEL_TOKEN,
    TAG_JOB,
    ModelPlan,
    TrackingPlan,
)
from kubetune.api.training.families import pad_token, special_tokens
from kubetune.api.training.trained_rows import TrainedRows, of_tags

from kubetune_runner.data.findings import listing, quote
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import causal, vocabulary
from kubetune_runner.inspection.adapter import check_fits
from kubetune_runner.inspection.chat_template import renderer
from kubetune_runner.inspection.documents import json_of, text_of
from kubetune_runner.inspection.model_files import ModelFiles, open_model
from kubetune_runner.inspection.model_shape import first_number as _first_number
from kubetune_runner.inspection.model_shape import shape_facts
from kubetune_runner.inspection.safetensors import Tensors
from kubetune_runner.inspection.tokens import KnownTokenizer
from kubetune_runner.inspection.weights import (
    main_dtype,
    parameters,
    read_weights,
    size_of,
)
from kubetune_runner.mlflow.rest import open_api
from kubetune_runner.mlflow.tracking_api import MlflowError
from kubetune_runner.text.shown import Render

CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
WIDTH_NAMES = ("hidden_size", "n_embd", "d_model", "dim")
MODULES_LIMIT = 1024
"""Characters of the names of modules: the outcome is small."""
log = logging.getLogger(__name__)


def inspect_model(plan: ModelPlan, tracking: TrackingPlan | None) -> ModelInspection:
    """Tell base models and adapters apart and describe them.

    Raises RunError ModelNotFound, ModelUnrecognized, ModelFilesMissing, ModelFilesInvalid,
    BaseModelMissing, BaseModelUnexpected, BaseModelMismatch, ModelNotCausal, or as ``open_model``
    does.
    """
    files = _open(plan, tracking, ENV_MODEL_TOKEN)
    rows = trained_on(plan, tracking)
    found = _described(plan, files, tracking)
    return found.model_copy(update={"trained_on": rows}) if rows else found


def trained_on(plan: ModelPlan, tracking: TrackingPlan | None) -> list[TrainedRows]:
    """Rows that a registered version was trained on, by its tags; none where they don't tell."""
    version = re.match(r"^models:/([^/@]+)(?:/(\d+)|@(.+))$", plan.registry_uri or "")
    if version is None or tracking is None:
        return []
    try:
        api = open_api(tracking.uri)
        number = api.version(*version.groups())
        tags = api.version_tags(version[1], number)
    except MlflowError as error:
        log.warning("tags of %s can't be read: %s", plan.registry_uri, error)
        return []
    return of_tags(tags, tags.get(TAG_JOB))


def _described(
    plan: ModelPlan, files: ModelFiles, tracking: TrackingPlan | None
) -> ModelInspection:
    if "adapter_config.json" in files.sizes:
        return _adapter(plan, files, tracking)
    if "config.json" not in files.sizes:
        found = listing([name for name in files.sizes if not name.startswith(".")], 5)
        raise RunError(
            "ModelUnrecognized",
            f"{files.place} has neither config.json (a model) nor adapter_config.json (an"
            f" adapter); it has {found}",
        )
    if plan.base:
        raise RunError(
            "BaseModelUnexpected",
            f"{files.place} is a base model, not an adapter; remove spec.baseModelRef",
        )
    config = json_of(files, "config.json")
    causal.check(files.place, config)
    weights = read_weights(files)
    described = _describe(config, files, weights)
    _check_vocabulary(files, described.get("vocabularySize"), weights)
    return ModelInspection.model_validate({"type": "base", **described})


def _check_vocabulary(files: ModelFiles, size: int | None, weights: Tensors | None) -> None:
    """Raises RunError TokenBeyondVocabulary."""
    config = json_of(files, "tokenizer_config.json", missing={})
    special = json_of(files, "special_tokens_map.json", missing={})
    decoder: Any = config.get("added_tokens_decoder")
    added = None if decoder else json_of(files, "tokenizer.json", missing={}).get("added_tokens")
    template: Any = config.get("chat_template") or ""
    if "chat_template.jinja" in files.sizes:
        template = text_of(files, "chat_template.jinja")
    vocabulary.check(
        files.place,
        {**special, **_present(config)},
        vocabulary.token_numbers(decoder, added),
        template if isinstance(template, str) else "",
        size,
        weights,
    )


def read_tokenizer(plan: ModelPlan, tracking: TrackingPlan | None) -> KnownTokenizer:
    """The model's fast tokenizer, its context length and its end token, where the files tell.

    An adapter may leave the tokenizer to its base, and always leaves it the context length.

    Raises RunError TokenizerMissing, or as ``open_model`` does.
    """
    from tokenizers import Tokenizer

    for part, variable in ((plan, ENV_MODEL_TOKEN), (plan.base, ENV_BASE_MODEL_TOKEN)):
        if part is None:
            continue
        files = _open(part, tracking, variable)
        if "tokenizer.json" in files.sizes:
            try:
                tokenizer = Tokenizer.from_str(text_of(files, "tokenizer.json"))
            except RunError:
                raise
            except Exception as error:  # the tokenizers library raises nothing more specific
                raise RunError(
                    "ModelFilesInvalid", f"tokenizer.json of {files.place} can't be read"
                ) from error
            config = json_of(files, "config.json", missing={})
            context = _first_number(_text_part(config), CONTEXT_NAMES)
            own = json_of(files, "tokenizer_config.json", missing={})
            special = {**json_of(files, "special_tokens_map.json", missing={}), **_present(own)}
            end = special_tokens(special, lambda _: False).end
            return KnownTokenizer(tokenizer, context, end)
    raise RunError("TokenizerMissing", f"model {quote(plan.name)} has no tokenizer.json")


def read_chat_template(plan: ModelPlan, tracking: TrackingPlan | None) -> Render | None:
    """Renders chats by the model's template, or by that which its family gets without one.

    Raises RunError as ``open_model`` does.
    """
    files = _open(plan, tracking, ENV_MODEL_TOKEN)
    base = files
    if plan.base is not None:
        base = _open(plan.base, tracking, ENV_BASE_MODEL_TOKEN)
        if "tokenizer_config.json" not in files.sizes:
            files = base
    special = json_of(files, "special_tokens_map.json", missing={})
    config = {**special, **_present(json_of(files, "tokenizer_config.json", missing={}))}
    name = "chat_template.jinja"
    jinja = text_of(files, name) if name in files.sizes else None
    return renderer(config, jinja, json_of(base, "config.json", missing={}).get("model_type"))


def _open(plan: ModelPlan, tracking: TrackingPlan | None, variable: str) -> ModelFiles:
    return open_model(plan, tracking, os.environ.get(variable) or None)


def _adapter(plan: ModelPlan, files: ModelFiles, tracking: TrackingPlan | None) -> ModelInspection:
    config = json_of(files, "adapter_config.json")
    trained_on = config.get("base_model_name_or_path")
    if plan.base is None:
        raise RunError(
            "BaseModelMissing",
            f"{files.place} is an adapter, trained on {quote(str(trained_on))}; declare that model"
            " and name it in spec.baseModelRef",
        )
    base_files = _open(plan.base, tracking, ENV_BASE_MODEL_TOKEN)
    if "config.json" not in base_files.sizes or "adapter_config.json" in base_files.sizes:
        raise RunError(
            "BaseModelMismatch",
            f"spec.baseModelRef {quote(plan.base.name)} is no base model; name the model that"
            " the adapter was trained on",
        )
    base_config = json_of(base_files, "config.json")
    causal.check(base_files.place, base_config)
    weights = read_weights(files, adapter=True)
    if weights and not base_config.get("quantization_config"):
        base_weights = read_weights(base_files)
        if base_weights:
            check_fits(weights, base_weights, plan.base.name)
    described = _describe(base_config, base_files, None)
    own = _tokenizer_facts(files, base_config.get("model_type"))
    described |= {
        "revision": files.revision,
        "parameters": parameters(weights),
        "dtype": main_dtype(weights),
        "sizeBytes": size_of(files, adapter=True),
        "license": files.license,
        "adapterRank": config.get("r") if isinstance(config.get("r"), int) else None,
        "adapter": _adapter_settings(config),
        "baseModel": str(trained_on) if trained_on else None,
    }
    if own is not None:
        described |= own
    return ModelInspection.model_validate({"type": "adapter", **_present(described)})


def _adapter_settings(config: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of a LoRA adapter; None for other kinds."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int):
        return None
    if not isinstance(alpha, int | float) or alpha != int(alpha):
        return None
    return _present(
        {
            "rank": rank,
            "alpha": int(alpha),
            "dropout": config.get("lora_dropout"),
            "targetModules": _modules(config.get("target_modules")),
            "bias": config.get("bias"),
            "useRslora": config.get("use_rslora"),
            "useDora": config.get("use_dora"),
            "modulesToSave": _modules(config.get("modules_to_save")),
        }
    )


def _modules(value: Any) -> list[str] | None:
    """Names of modules, sorted; a text is a pattern. None where they are too many."""
    if not value:
        return None
    names = [value] if isinstance(value, str) else sorted(str(name) for name in value)
    fits = len(names) <= MAX_MODULES and sum(map(len, names)) <= MODULES_LIMIT
    return names if fits else None


def _describe(config: dict[str, Any], files: ModelFiles, weights: Tensors | None) -> dict[str, Any]:
    text = _text_part(config)
    quantized = "quantization_config" in config
    architectures: Any = config.get("architectures") or ["unknown"]
    return _present(
        {
            "revision": files.revision,
            "architecture": str(architectures[0]),
            "modelType": str(config.get("model_type") or "unknown"),
            # Packed weights hold several parameters in one element, so they aren't counted.
            "parameters": None if quantized else parameters(weights),
            "dtype": main_dtype(weights) or _configured_dtype(text),
            "contextLength": _first_number(text, CONTEXT_NAMES),
            "sizeBytes": size_of(files),
            "license": files.license,
            "hiddenSize": _first_number(text, WIDTH_NAMES),
            "vocabularySize": _first_number(text, ("vocab_size", "n_vocab")),
            **shape_facts(text, weights),
            **(_tokenizer_facts(files, config.get("model_type")) or {"chatTemplate": False}),
        }
    )


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Models for text and images keep the sizes of their language part one level below."""
    nested = config.get("text_config")
    return {**config, **cast("dict[str, Any]", nested)} if isinstance(nested, dict) else config


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _configured_dtype(config: dict[str, Any]) -> str | None:
    value = config.get("dtype") or config.get("torch_dtype")
    return value.removeprefix("torch.") if isinstance(value, str) else None


def _tokenizer_facts(files: ModelFiles, model_type: str | None) -> dict[str, Any] | None:
    """Chat template and the token that pads; None where there is no tokenizer."""
    if not {"tokenizer_config.json", "tokenizer.json"} & files.sizes.keys():
        return None
    config = json_of(files, "tokenizer_config.json", missing={})
    special = json_of(files, "special_tokens_map.json", missing={})
    template = bool(config.get("chat_template")) or "chat_template.jinja" in files.sizes
    known = special_tokens({**special, **_present(config)}, lambda _: False)
    if not known.pad:
        names = _added_tokens(files, config)
        known = replace(known, has=lambda token: token in names)
    pads = pad_token(model_type, known)
    found = {"padToken": pads[0], "padTokenFrom": pads[1]} if pads else {}
    return {"chatTemplate": template, **found}


def _added_tokens(files: ModelFiles, config: dict[str, Any]) -> set[str]:
    """The tokens that were added to the vocabulary by name, as special ones are."""
    decoder: Any = config.get("added_tokens_decoder")
    if isinstance(decoder, dict) and decoder:
        added: list[Any] = list(cast("dict[str, Any]", decoder).values())
    else:
        added = json_of(files, "tokenizer.json", missing={}).get("added_tokens") or []
    return {str(token.get("content")) for token in added if isinstance(token, dict)}
