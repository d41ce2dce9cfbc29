"""The weights of a model without reading them: names, shapes and formats from their headers."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubetune_runner.data.findings import listing
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.documents import json_of, unreachable
from kubetune_runner.inspection.model_files import ModelFiles
from kubetune_runner.inspection.safetensors import DTYPES, Tensors
from kubetune_runner.mlflow.tracking_api import MlflowError

OTHER_WEIGHTS = (".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack")


def weight_files(files: ModelFiles, adapter: bool = False) -> list[str]:
    """The safetensors files of the model; those of an index where there is one."""
    if adapter:
        return [name for name in ("adapter_model.safetensors",) if name in files.sizes]
    index = "model.safetensors.index.json"
    if index in files.sizes:
        shards: Any = json_of(files, index).get("weight_map") or {}
        names = sorted({str(shard) for shard in shards.values()})
        missing = [name for name in names if name not in files.sizes]
        if missing:
            raise RunError(
                "ModelFilesMissing",
                f"{files.place} lacks {listing(missing, 5)} of its {len(names)} weight files",
            )
        return names
    return ["model.safetensors"] if "model.safetensors" in files.sizes else []


def _other_weights(files: ModelFiles, adapter: bool) -> list[str]:
    return [
        name
        for name in files.sizes
        if name.endswith(OTHER_WEIGHTS)
        and "/" not in name
        and name.startswith("adapter_model") == adapter
        and name != "training_args.bin"
    ]


def read_weights(files: ModelFiles, adapter: bool = False) -> Tensors | None:
    """All tensors; None where the weights aren't safetensors.

    Raises RunError ModelFilesMissing and ModelFilesInvalid.
    """
    names = weight_files(files, adapter)
    if not names:
        if _other_weights(files, adapter):
            return None
        kind = "adapter_model.safetensors" if adapter else "model.safetensors"
        raise RunError(
            "ModelFilesMissing",
            f"{files.place} has a configuration, but no weights such as {kind}",
        )
    with ThreadPoolExecutor(max_workers=min(8, len(names))) as pool:
        headers = list(pool.map(lambda name: _header(files, name), names))
    return {name: tensor for header in headers for name, tensor in header.items()}


def _header(files: ModelFiles, name: str) -> Tensors:
    try:
        return files.tensors(name)
    except MlflowError as error:
        raise unreachable(files, name, error) from error
    except ValueError as error:
        raise RunError("ModelFilesInvalid", f"{name} of {files.place} {error}") from error


def parameters(weights: Tensors | None) -> int | None:
    """How many numbers the tensors hold."""
    return sum(math.prod(shape) for _, shape in weights.values()) if weights else None


def main_dtype(weights: Tensors | None) -> str | None:
    """The format that holds most parameters."""
    counts: Counter[str] = Counter()
    for dtype, shape in (weights or {}).values():
        counts[dtype] += math.prod(shape)
    return DTYPES.get(name := counts.most_common(1)[0][0], name) if counts else None


def size_of(files: ModelFiles, adapter: bool = False) -> int | None:
    """Bytes of the weight files; None where it isn't known of all."""
    names = weight_files(files, adapter) or _other_weights(files, adapter)
    sizes = [files.sizes[name] for name in names]
    return sum(size for size in sizes if size) if sizes and None not in sizes else None
