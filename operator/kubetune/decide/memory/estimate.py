"""status.estimate of a FineTuneJob, and what helps when it doesn't fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import (
    DatasetStatusDict,
    EstimateDict,
    LengthBucketDict,
    LengthHistogramDict,
    ModelStatusDict,
    PeakMemoryDict,
)
from kubetune.api.training.settings import merge
from kubetune.decide.memory.peak import (
    MIB,
    Memory,
    Sizes,
    checkpoints_activations,
    computes_in_half,
    memory,
    on_gpu,
    sizes_of,
    trainable_parameters,
)
from kubetune.decide.settings.workers import processes_of, world_size
from kubetune.targets.quantities import amount

SECONDS_PER_HOUR = 3600
SHORTEST_USEFUL = 128
"""Tokens below which a shorter maxLength is no advice."""
SHOWN_CHANGES = 2
SPECIAL_TOKENS = 2
"""Begin and end, which the lengths of a Dataset leave out."""


def estimate(
    model: ModelStatusDict,
    dataset: DatasetStatusDict,
    settings: Mapping[str, Any],
    objective: str,
    *,
    templated: bool,
) -> EstimateDict | None:
    """What the job will take, as far as the status of Model and Dataset tells.

    ``templated`` says that a PromptTemplate makes other text of the rows than was measured.
    None for an objective that the formulas don't know.
    """
    if objective != "sft":
        return None
    lengths = None if templated else dataset.get("lengths")
    sequence = longest_row(lengths, settings)
    tokens = _tokens_per_epoch(lengths, dataset, settings)
    steps = _steps(dataset, settings, tokens)
    found: EstimateDict = {"sequenceLength": sequence, "rowsPerStep": _rows_per_step(settings)}
    if tokens is not None:
        found["tokensPerEpoch"] = tokens
    if steps is not None:
        found["steps"] = steps
    hours = _gpu_hours(dataset, settings, tokens, steps)
    if hours is not None:
        found["gpuHours"] = hours
    sizes = sizes_of(model)
    if sizes is None:
        return found
    trainable = trainable_parameters(sizes, settings["method"])
    peak = memory(sizes, settings, sequence)
    if trainable is None or peak is None:
        return found
    return found | {"trainableParameters": trainable, "peakMemory": _parts(peak)}


def misfit(
    model: ModelStatusDict,
    dataset: DatasetStatusDict,
    settings: Mapping[str, Any],
    objective: str,
    *,
    templated: bool,
) -> str:
    """A sentence when the job won't fit into the memory that it asks for, else empty.

    It names the settings that help most.
    """
    sizes = sizes_of(model)
    if sizes is None or objective != "sft":
        return ""
    sequence = longest_row(None if templated else dataset.get("lengths"), settings)
    peak = memory(sizes, settings, sequence)
    if peak is None:
        return ""
    resources = settings["resources"]
    gpu = on_gpu(settings)
    field = "gpuMemory" if gpu else "memory"
    limit = resources.get(field)
    processes = processes_of(resources)
    each = f" for each of {processes} processes" if processes > 1 else ""
    if limit is not None and peak.total > device_memory(limit, settings):
        return (
            f"training needs about {quantity(peak.total)} of memory at its peak"
            f"{'' if gpu else each}, and resources.{field} is {limit}:"
            f" {advice(sizes, settings, sequence, limit)}"
        )
    if gpu and peak.host is not None and processes * peak.host > amount(resources["memory"]):
        return (
            f"loading the model needs about {quantity(peak.host)} of main memory{each}, and"
            f" resources.memory is {resources['memory']}: raise it"
        )
    return ""


def device_memory(limit: str, settings: Mapping[str, Any]) -> float:
    """What one process has of it: GPUs are not shared, a pod's main memory is."""
    shared = 1 if on_gpu(settings) else processes_of(settings["resources"])
    return float(amount(limit)) / shared


def longest_row(lengths: LengthHistogramDict | None, settings: Mapping[str, Any]) -> int:
    """Tokens of the longest rows that a batch may hold."""
    numbers = settings["hyperparameters"]
    if lengths is None or numbers["packing"]:
        return numbers["maxLength"]
    # A token has a character at least, mostly four.
    return max(1, min(numbers["maxLength"], lengths["maximum"] + SPECIAL_TOKENS))


def advice(sizes: Sizes, settings: Mapping[str, Any], sequence: int, limit: str) -> str:
    """The mildest single change that makes it fit, else the one that saves most."""
    space = device_memory(limit, settings)
    needed: list[tuple[int, str]] = []
    for text, changed in _changes(settings, sequence):
        shorter = min(sequence, changed["hyperparameters"]["maxLength"])
        peak = memory(sizes, changed, shorter)
        if peak is None:
            continue
        if peak.total <= space:
            return f"{text} would need {quantity(peak.total)}"
        needed.append((peak.total, text))
    field = "gpuMemory on a larger GPU" if on_gpu(settings) else "resources.memory"
    if not needed:
        return f"raise {field}"
    least, text = min(needed)
    return f"{text} helps most, with {quantity(least)}, but isn't enough: raise {field} too"


def savings(sizes: Sizes | None, settings: Mapping[str, Any], sequence: int) -> list[str]:
    """At most two single changes that save memory.

    Those that save most, with the estimated share; the mildest, where the model's sizes aren't
    known.
    """
    changes = _first_of_each(_changes(settings, sequence))
    now = memory(sizes, settings, sequence) if sizes else None
    if sizes is None or now is None:
        return [text for text, _ in changes[:SHOWN_CHANGES]]
    found: list[tuple[int, str]] = []
    for text, changed in changes:
        peak = memory(sizes, changed, min(sequence, changed["hyperparameters"]["maxLength"]))
        saved = 0 if peak is None else 100 * (now.total - peak.total) // now.total
        if saved > 0:
            found.append((saved, f"{text} (saves about {saved}%)"))
    found.sort(key=lambda item: -item[0])
    return [text for _, text in found[:SHOWN_CHANGES]]


def _first_of_each(changes: Iterator[tuple[str, JsonObject]]) -> list[tuple[str, JsonObject]]:
    """The first change of each setting: half the batch stands for all smaller ones."""
    found: dict[str, tuple[str, JsonObject]] = {}
    for text, changed in changes:
        found.setdefault(text.split(":")[0] if "method" not in text else text, (text, changed))
    return list(found.values())


def quantity(size: int) -> str:
    """Bytes for people: ``850Mi``, ``12.3Gi``."""
    mebibytes = math.ceil(size / MIB)
    return f"{mebibytes}Mi" if mebibytes < 1024 else f"{mebibytes / 1024:.1f}Gi"


def _changes(settings: Mapping[str, Any], sequence: int) -> Iterator[tuple[str, JsonObject]]:
    """Each setting that saves memory, as text and with it changed."""

    def numbers(**given: Any) -> JsonObject:
        return merge(dict(settings), {"hyperparameters": given})

    def method(given: JsonObject) -> JsonObject:
        return dict(settings) | {"method": given}

    now, kind = settings["hyperparameters"], settings["method"]["type"]
    batch, steps = now["perDeviceBatchSize"], now["gradientAccumulationSteps"]
    if not checkpoints_activations(settings):
        yield (
            "hyperparameters.gradientCheckpointing: true",
            numbers(gradientCheckpointing=True),
        )
    smaller = batch // 2
    while smaller >= 1:
        more = steps * batch // smaller
        yield (
            f"hyperparameters.perDeviceBatchSize: {smaller} with gradientAccumulationSteps: {more}",
            numbers(perDeviceBatchSize=smaller, gradientAccumulationSteps=more),
        )
        smaller //= 2
    if on_gpu(settings) and not computes_in_half(settings):
        yield "hyperparameters.precision: bf16", numbers(precision="bf16")
    if kind == "full":
        yield "method.type: lora", method({"type": "lora", "lora": _LORA})
    if kind in ("lora", "full"):
        packed = {"bits": 4, "type": "nf4", "doubleQuantization": True}
        lora = settings["method"].get("lora") or _LORA
        yield "method.type: qlora", method({"type": "qlora", "lora": lora, "quantization": packed})
    if sequence >= 2 * SHORTEST_USEFUL:
        shorter = sequence // 2
        yield f"hyperparameters.maxLength: {shorter}", numbers(maxLength=shorter)


_LORA: JsonObject = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "targetModules": ["all-linear"],
    "bias": "none",
    "useRslora": False,
    "useDora": False,
    "modulesToSave": [],
}


def _parts(peak: Memory) -> PeakMemoryDict:
    parts: PeakMemoryDict = {
        "total": _mebibytes(peak.total),
        "weights": _mebibytes(peak.weights),
        "gradients": _mebibytes(peak.gradients),
        "optimizer": _mebibytes(peak.optimizer),
        "activations": _mebibytes(peak.activations),
        "logits": _mebibytes(peak.logits),
        "runtime": _mebibytes(peak.runtime),
    }
    if peak.host is not None:
        parts["host"] = _mebibytes(peak.host)
    return parts


def _mebibytes(size: int) -> str:
    return f"{math.ceil(size / MIB)}Mi"


def _rows(dataset: DatasetStatusDict, settings: Mapping[str, Any]) -> int | None:
    rows = dataset.get("rows")
    if not rows:
        return None
    return max(1, math.ceil(rows["train"] * settings["data"]["fraction"]))


def _tokens_per_epoch(
    lengths: LengthHistogramDict | None, dataset: DatasetStatusDict, settings: Mapping[str, Any]
) -> int | None:
    """Tokens of the rows that train, cut at maxLength; None where they weren't counted."""
    used = _rows(dataset, settings)
    if lengths is None or lengths.get("unit", "tokens") != "tokens" or used is None:
        return None
    limit = settings["hyperparameters"]["maxLength"]
    everything: LengthBucketDict = {
        "upTo": lengths["maximum"],
        "rows": _all_rows(dataset),
        "total": lengths["total"],
    }
    buckets = lengths.get("buckets") or [everything]
    total = sum(min(bucket["total"], bucket["rows"] * limit) for bucket in buckets)
    return round(total * used / max(_all_rows(dataset), 1))


def _all_rows(dataset: DatasetStatusDict) -> int:
    rows = dataset.get("rows")
    return rows["train"] + rows["evaluation"] if rows else 0


def _steps(
    dataset: DatasetStatusDict, settings: Mapping[str, Any], tokens: int | None
) -> int | None:
    """Optimizer steps; None for packed rows whose tokens weren't counted."""
    numbers = settings["hyperparameters"]
    if "maxSteps" in numbers:
        return numbers["maxSteps"]
    rows = _rows(dataset, settings)
    if numbers["packing"]:
        rows = None if tokens is None else max(1, math.ceil(tokens / numbers["maxLength"]))
    if rows is None:
        return None
    batches = math.ceil(rows / (numbers["perDeviceBatchSize"] * world_size(settings)))
    per_epoch = max(1, math.ceil(batches / numbers["gradientAccumulationSteps"]))
    return math.ceil(numbers["epochs"] * per_epoch)


def _rows_per_step(settings: Mapping[str, Any]) -> int:
    """Rows, or packed sequences, that an optimizer step learns from."""
    numbers = settings["hyperparameters"]
    made = numbers["perDeviceBatchSize"] * numbers["gradientAccumulationSteps"]
    return made * world_size(settings)


def _gpu_hours(
    dataset: DatasetStatusDict,
    settings: Mapping[str, Any],
    tokens: int | None,
    steps: int | None,
) -> float | None:
    """From estimate.tokensPerSecond; None without it, without a GPU, or without tokens."""
    speed = (settings.get("estimate") or {}).get("tokensPerSecond")
    rows = _rows(dataset, settings)
    if not speed or not on_gpu(settings) or tokens is None or steps is None or rows is None:
        return None
    numbers = settings["hyperparameters"]
    if "maxSteps" in numbers:
        trained = tokens * steps * _rows_per_step(settings) / rows
    else:
        trained = tokens * numbers["epochs"]
    return round(trained / speed / SECONDS_PER_HOUR, 3)
