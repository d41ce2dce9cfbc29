"""Builders for the tests of data and inspections: plans, sources, small models, a hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kubetune.api.run.plan import DatasetPlan, InspectionPlan
from safetensors.numpy import save

from tests.hub.server import Hub, running

ROWS = [{"prompt": f"question {at}", "completion": f"answer {at}"} for at in range(100)]
RUN = {"installId": "install", "runKey": "key", "namespace": "team", "name": "it", "uid": "u"}


@pytest.fixture(name="hub")
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process' huggingface_hub asks, with an empty cache."""
    from huggingface_hub import constants, hf_api

    with running(tmp_path / "hub") as server:
        # The library read HF_ENDPOINT and HF_HOME when it was imported, perhaps long ago.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        yield server


def jsonl(rows: list[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def dataset_document(source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A dataset plan as JSON; ``fields`` overrides what stands in it."""
    base = {"name": "rows", "format": "promptCompletion", "columns": {}, "splits": {}}
    return {**base, **source, **fields}


def files_plan(folder: Path, glob: str, format: str = "jsonl", **fields: Any) -> DatasetPlan:
    """A plan that reads files below a folder."""
    source = {"files": {"directory": str(folder), "glob": glob, "format": format}}
    if "rows" in fields:
        fields["format"] = fields.pop("rows")
    return DatasetPlan.model_validate(dataset_document(source, **fields))


def hub_plan(repo: str, revision: str = "main", config: str | None = None, **fields: Any) -> Any:
    """A plan that reads a hub repository."""
    source = {"repo": repo, "revision": revision} | ({"config": config} if config else {})
    return DatasetPlan.model_validate(dataset_document({"hub": source}, **fields))


def inspection_plan(kind: str, **fields: Any) -> InspectionPlan:
    """An inspection."""
    return InspectionPlan.model_validate({"kind": kind, "run": RUN, **fields})


def model_files(hidden: int = 16, layers: int = 2, vocabulary: int = 32) -> dict[str, bytes]:
    """A Llama of a given width that loads with transformers, and a tokenizer configuration."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
    }
    tensors = {"model.embed_tokens.weight": np.zeros((vocabulary, hidden), np.float32)}
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            name = f"model.layers.{layer}.self_attn.{module}.weight"
            tensors[name] = np.zeros((hidden, hidden), np.float32)
    tokenizer = {"chat_template": "{{ messages }}", "pad_token": "<pad>", "eos_token": "</s>"}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(tensors),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "README.md": b"---\nlicense: mit\n---\n# A model\n",
    }


def adapter_files(hidden: int = 16, layers: int = 2, rank: int = 4) -> dict[str, bytes]:
    """A LoRA adapter for ``model_files`` of the same width."""
    tensors: dict[str, Any] = {}
    for layer in range(layers):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{stem}.lora_A.weight"] = np.zeros((rank, hidden), np.float32)
        tensors[f"{stem}.lora_B.weight"] = np.zeros((hidden, rank), np.float32)
    config = {"peft_type": "LORA", "r": rank, "base_model_name_or_path": "acme/base"}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
    }


def tokenizer_json(text: str = "") -> str:
    """A tokenizer that cuts at whitespace, and tells the words of a text apart."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = dict.fromkeys(["[UNK]", *re.findall(r"\w+|[^\w\s]+", text)])
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.to_str()


def write(folder: Path, files: dict[str, bytes] | dict[str, str]) -> Path:
    """Write files into a folder, which is made."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
