"""Finds, checks and loads the model that a run starts from.

Everything that a configuration file can tell is checked before torch is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file
from kubetune.api.kinds.dataset.sources import HubSource
from kubetune.api.run.plan import ENV_MODEL_TOKEN, ModelPlan, in_container
from kubetune.api.run.training_plan import TokenizerPlan
from kubetune.api.training.families import SpecialTokens, pad_token

from kubetune_runner.answering.embeddings import unembedded
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.model import file_list
from kubetune_runner.model.quantization import compute_plainly
from kubetune_runner.stages import UNWATCHED, Watch

_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.py")
_TOKENIZER = re.compile(r"\.(model|tiktoken)$|vocab|merges|^tokenizer\.json$")
SCORE_LAYERS = ("score", "classifier")
"""Names of the last layer of a model that scores, as transformers and peft know them."""
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")

_GONE = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})
"""What a registry says of a version that was deleted, and will say again."""


def fetch(
    model: ModelPlan, token_variable: str = ENV_MODEL_TOKEN, watch: Watch = UNWATCHED
) -> Path:
    """Folder with the files of a model or an adapter, downloaded when they aren't here yet.

    ``token_variable`` holds the hub's token; ``watch`` is told how many bytes of a hub's have come.
    Raises RunError ModelMissing, and those of
    ``hub.open_repo`` and ``file_list.check``.
    """
    configuration = ADAPTER_CONFIG if model.type == "adapter" else CONFIG
    if model.hub is not None:
        return _from_hub(model, model.hub, configuration, token_variable, watch)
    watch.begin("downloading")
    if model.registry_uri is not None:
        found = _from_registry(model.registry_uri)
        if model.files_digest is not None:
            file_list.check(model.name, found, model.files_digest)
        return _config_folder(model, found, configuration)
    folder = in_container(model.directory or "")
    if not folder.is_dir():
        raise RunError(
            "ModelMissing",
            f"model {model.name}: {model.directory} is not a folder: correct path in the Model",
        )
    return _config_folder(model, folder, configuration)


def reference(model: ModelPlan) -> tuple[str, str | None]:
    """What an adapter's files name as its base: repository, registry URI or, as a path means
    nothing outside of the run, the place in the cluster (``pvc://claim/path``); and a revision.
    """
    if model.hub is not None:
        return model.hub.repo, model.revision or model.hub.revision
    return model.registry_uri or model.source or model.directory or "", None


def shown(model: ModelPlan) -> str:
    """Where a model is, as users know it, for records of a run."""
    return model.source or reference(model)[0]


def context_length(folder: Path) -> int | None:
    """Longest sequence of the model in tokens, when its configuration tells."""
    config = _configuration(folder)
    for part in (config, config.get("text_config") or {}):
        for field in _CONTEXT_FIELDS:
            if isinstance(part.get(field), int):
                return part[field]
    return None


def check_length(model: ModelPlan, folder: Path, max_length: int) -> None:
    """Refuse rows longer than the model can read."""
    context = context_length(folder)
    if context is not None and max_length > context:
        raise RunError(
            "MaxLengthTooLarge",
            f"hyperparameters.maxLength is {max_length}, but {model.name} reads at most {context}"
            f" tokens: set maxLength to {context} or less",
        )


def load_tokenizer(model: ModelPlan, folder: Path, change: TokenizerPlan | None = None) -> Any:
    """The tokenizer, always with a pad token, and as ``change`` says.

    Padding is masked by position, so a pad token that is also the end token costs nothing.
    Raises RunError TokenizerUnreadable, PadTokenMissing or PadTokenUnknown.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _without_vocabulary(
            model, folder, f"can't be loaded: {_first_line(error)}"
        ) from error
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    # What transformers makes of a file that it doesn't know: every text would be empty.
    if not set(vocabulary) - set(tokenizer.all_special_tokens):
        raise _without_vocabulary(model, folder, "has special tokens alone")
    wanted = change.pad_token if change else None
    if wanted is not None and wanted not in vocabulary:
        raise RunError(
            "PadTokenUnknown",
            f"tokenizer.padToken {wanted!r} is not in the vocabulary of model {model.name}, and a"
            " new token would need a new embedding: name one that is there, or leave it out",
        )
    if wanted is None:
        own = SpecialTokens(
            tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token, vocabulary.__contains__
        )
        chosen = pad_token(_model_type(folder), own)
        if chosen is None:
            raise RunError(
                "PadTokenMissing",
                f"model {model.name}: its tokenizer has neither pad, end nor unknown token: set"
                " tokenizer.padToken, or add pad_token to tokenizer_config.json",
            )
        wanted = chosen[0]
    if tokenizer.pad_token != wanted:
        tokenizer.pad_token = wanted
    if change and change.chat_template is not None:
        tokenizer.chat_template = change.chat_template
    return tokenizer


def _without_vocabulary(model: ModelPlan, folder: Path, what: str) -> RunError:
    found = sorted(path.name for path in folder.iterdir() if _TOKENIZER.search(path.name))
    return RunError(
        "TokenizerUnreadable",
        f"model {model.name}: its tokenizer {what}; of its files {', '.join(found) or 'none'} could"
        " hold a vocabulary, which transformers reads from tokenizer.json, tokenizer.model (of"
        " SentencePiece or tiktoken) or a file that the tokenizer's class names: load it where it"
        " works, save it with `save_pretrained`, and put tokenizer.json next to the weights",
    )


def _model_type(folder: Path) -> str | None:
    return _configuration(folder).get("model_type") if (folder / CONFIG).is_file() else None


def _configuration(folder: Path) -> dict[str, Any]:
    return json_file(folder / CONFIG)


def load_model(
    model: ModelPlan,
    folder: Path,
    dtype: Any,
    quantization: Any = None,
    *,
    score_seed: int | None = None,
) -> Any:
    """The model with its weights in ``dtype``, on the CPU.

    With ``quantization`` (``quantization.configuration``) only what isn't quantized is, and the
    model is on the device. With ``score_seed`` its last layer gives a score instead of tokens,
    from a new layer that starts from random numbers of this seed.
    """
    options: dict[str, Any] = {} if quantization is None else {"quantization_config": quantization}
    options |= {"dtype": dtype, "trust_remote_code": model.trust_remote_code}
    try:
        if score_seed is None:
            from transformers import AutoModelForCausalLM

            loaded = AutoModelForCausalLM.from_pretrained(folder, **options)
        else:
            loaded = _scoring(folder, score_seed, options)
    # Each architecture, and each way to quantize it, fails in its own way; that memory was too
    # little is told by the error behind this one.
    except Exception as error:
        how = "" if quantization is None else " quantized (method lora may work)"
        raise RunError(
            "ModelUnreadable",
            f"model {model.name} can't be loaded{how}: {_first_line(error)}",
        ) from error
    return compute_plainly(loaded) if getattr(loaded, "is_quantized", False) else loaded


def save_whole(model: Any, folder: Path) -> None:
    """Write a model with a configuration that transformers can load it by.

    The language part of some models for pictures is of a type that no model has by itself, so it
    gets the configuration of the whole that it came with.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    model.save_pretrained(folder)
    own = model.config
    if type(own) in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(own, "auto_map", None):
        return
    whole: Any = AutoConfig.from_pretrained(model.name_or_path)
    parts = [name for name in whole.sub_configs if type(getattr(whole, name, None)) is type(own)]
    for name in parts:
        setattr(whole, name, own)
    if parts:
        whole.save_pretrained(folder)


def check_tokens(name: str, model: Any, tokenizer: Any, rows: Iterable[Sequence[int]]) -> None:
    """Refuse tokens of rows that the model has no embedding for.

    Raises RunError TokenBeyondVocabulary.
    """
    if what := unembedded(model, tokenizer, rows):
        raise RunError(
            "TokenBeyondVocabulary",
            f"model {name}: the rows have {what}: resize them with"
            " `model.resize_token_embeddings(len(tokenizer))` and save both, or keep the token"
            " out of rows and chat template",
        )


def _scoring(folder: Path, seed: int, options: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, set_seed
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    set_seed(seed)
    with suppress_seqcls_warning():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, **options
        )
    # The layer trains with all its weights, for which half a format is too coarse.
    for name in SCORE_LAYERS:
        if hasattr(loaded, name):
            getattr(loaded, name).to(torch.float32)
    return loaded


def _from_hub(
    model: ModelPlan, source: HubSource, configuration: str, token_variable: str, watch: Watch
) -> Path:
    from kubetune_runner.model.hub import open_repo

    watch.begin("downloading")
    repo = open_repo(
        source.repo,
        "model",
        model.revision or source.revision,
        os.environ.get(token_variable) or None,
    )
    names = [name for name in repo.sizes if "/" not in name]
    weights = [name for name in names if name.endswith(".safetensors")] or [
        name for name in names if name.endswith(".bin")
    ]
    wanted = [n for n in names if any(fnmatch(n, p) for p in _SMALL_FILES)] + weights
    if configuration not in wanted:
        raise _no_config(model, names, configuration)
    sizes = {name: repo.sizes[name] or 0 for name in wanted}
    report = watch.begin("downloading", "bytes", sum(sizes.values()) or None)
    folders: set[Path] = set()
    done = 0
    for name, size in sizes.items():
        folders.add(repo.download(name, lambda read, done=done: report(done + read, None)).parent)
        done += size
        report(done, None)
    return folders.pop()


def _from_registry(uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    try:
        return Path(mlflow_client.retried(lambda: download_artifacts(artifact_uri=uri)))
    except Exception as error:
        if getattr(error, "error_code", None) in _GONE:
            raise RunError(
                "RegistryNotFound",
                f"{uri} no longer exists: {_first_line(error)}; name another version in the Model",
            ) from error
        raise RunError(
            "RegistryUnavailable",
            f"{uri} can't be read from the tracking server: {_first_line(error)}",
            retryable=True,
        ) from error


def _config_folder(model: ModelPlan, folder: Path, configuration: str) -> Path:
    """The folder that holds the configuration: the given one or, in a registry version, below."""
    if (folder / configuration).is_file():
        return folder
    for path in sorted(folder.glob(f"**/{configuration}")):
        if any(path.parent.glob("*.safetensors")) or any(path.parent.glob("*.bin")):
            return path.parent
    raise _no_config(model, sorted(path.name for path in folder.iterdir()), configuration)


def _no_config(model: ModelPlan, names: list[str], configuration: str) -> RunError:
    found = ", ".join(names[:5]) or "nothing"
    return RunError(
        "ModelMissing",
        f"model {model.name} has no {configuration} with weights next to it; found {found}",
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
