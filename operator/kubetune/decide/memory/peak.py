"""How much memory a training takes at its peak, from the model's sizes and the settings.

The formula and how far it is off are in docs/estimates.md. Everything is in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api.kinds.status_types import ModelInspectionDict, ModelStatusDict
from kubetune.decide.settings.workers import world_size

MIB = 1024**2
FLOAT = 4
"""Bytes of a weight that trains, of its gradient, and of numbers in fp32."""
HALF = 2
RUNTIME = {"cpu": 1000 * MIB, "gpu": 700 * MIB}
"""Interpreter and libraries; on a GPU the context of CUDA and its libraries' workspaces."""
HEAD_ROWS, HEAD_COLUMNS = 4096, 32768
"""trl scores tiles of so many tokens and entries of the vocabulary at once."""
HEAD_TILES = {"cpu": 8.25, "gpu": 1.0}
"""Temporaries as large as a tile: a GPU's kernel works in place."""
HEAP = 2.2
"""On a CPU the process keeps so many times the activations: the C library's heap can't fill its
gaps with aligned blocks of the same size. A GPU's blocks are reused."""
CHECKPOINTED_HEAP = 1.1
"""The same with checkpointing, of the activations that there would be without: what each layer
has freed leaves gaps too."""
SCALE_BLOCK = 64
"""Weights that share a scale of 4 bits; with double quantization 256 scales share another."""
OPTIMIZER_BYTES = {
    "adamw_8bit": 2, "adamw_bnb_8bit": 2, "adamw_torch_8bit": 2, "paged_adamw_8bit": 2,
    "ademamix_8bit": 3, "paged_ademamix_8bit": 3, "lion_8bit": 1, "paged_lion_8bit": 1,
    "adamw_torch_4bit": 1, "lion_32bit": 4, "paged_lion_32bit": 4, "ademamix": 12,
    "paged_ademamix_32bit": 12, "sgd": 0, "adafactor": 0, "adagrad": 4, "rmsprop": 4,
    "rmsprop_bnb": 4, "rmsprop_bnb_8bit": 1, "rmsprop_bnb_32bit": 4,
}  # fmt: skip
ADAMW_BYTES = 8
OUTPUT_HEADS = ("lm_head", "embed_out")
EMBEDDINGS = ("wte", "wpe")
FAMILY_DEFAULTS = (("q_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("c_attn",))
"""What peft adapts by default, by the names that a model has."""


@dataclass(frozen=True)
class Matrix:
    """Weight matrices of one name and shape."""

    name: str
    count: int
    rows: int
    columns: int

    @property
    def is_linear(self) -> bool:
        """A linear layer that all-linear adapts and quantization packs."""
        return self.name not in (*OUTPUT_HEADS, *EMBEDDINGS) and "embed" not in self.name

    @property
    def weights(self) -> int:
        return self.count * self.rows * self.columns


@dataclass(frozen=True)
class Sizes:
    """What the formula needs to know of a base model."""

    parameters: int
    hidden: int
    layers: int
    heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    stored_as: str
    """Number format of the files."""
    matrices: tuple[Matrix, ...]

    @property
    def query(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_size

    @property
    def linear(self) -> int:
        """Weights of all linear layers but the output."""
        return sum(matrix.weights for matrix in self.matrices if matrix.is_linear)


@dataclass(frozen=True)
class Memory:
    """Peak memory by part. Gradients are whole only once the activations are gone."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    runtime: int
    total: int
    host: int | None = None
    """Main memory that a run on a GPU needs as well."""


def sizes_of(model: ModelStatusDict | ModelInspectionDict) -> Sizes | None:
    """From the status of a Model; None where it doesn't tell enough, or for a mixture of experts.

    Only some of a mixture's weights work on a token, and its layers differ between families.
    """
    parameters, matrices = model.get("parameters"), model.get("matrices")
    hidden, vocabulary = model.get("hiddenSize"), model.get("vocabularySize")
    layers, heads, head_size = (
        model.get("layers"),
        model.get("attentionHeads"),
        model.get("headSize"),
    )
    if not (parameters and matrices and hidden and vocabulary and layers and heads and head_size):
        return None
    if model.get("experts"):
        return None
    return Sizes(
        parameters=parameters,
        hidden=hidden,
        layers=layers,
        heads=heads,
        head_size=head_size,
        intermediate=model.get("intermediateSize") or 4 * hidden,
        vocabulary=vocabulary,
        stored_as=model.get("dtype") or "",
        matrices=tuple(
            Matrix(item["name"], item["count"], item["rows"], item["columns"]) for item in matrices
        ),
    )


def trainable_parameters(sizes: Sizes, method: Mapping[str, Any]) -> int | None:
    """Weights that train; None where only the run knows which modules are adapted."""
    if method["type"] == "full":
        return sizes.parameters
    lora = method["lora"]
    targets = _targets(sizes, lora["targetModules"])
    if targets is None:
        return None
    kept = _named(sizes, lora["modulesToSave"])
    adapted = [matrix for matrix in targets if matrix not in kept]
    total = sum(lora["rank"] * matrix.count * (matrix.rows + matrix.columns) for matrix in adapted)
    if lora["useDora"]:
        total += sum(matrix.count * matrix.rows for matrix in adapted)
    return total + sum(matrix.weights for matrix in kept)


def memory(sizes: Sizes, settings: Mapping[str, Any], sequence: int) -> Memory | None:
    """Peak memory of one process' device with these effective settings.

    ``sequence`` is the length of the longest rows in tokens. None where the number of weights
    that train isn't known.
    """
    method, numbers = settings["method"], settings["hyperparameters"]
    trainable = trainable_parameters(sizes, method)
    if trainable is None:
        return None
    gpu = on_gpu(settings)
    tokens = numbers["perDeviceBatchSize"] * sequence
    weights = _weights(sizes, settings, trainable)
    gradients = (HALF if _trains_in_half(method) else FLOAT) * trainable
    optimizer = trainable * _optimizer_bytes(settings)
    processes, exchanged = world_size(settings), 0
    if settings.get("strategy") == "fsdp2":
        # A layer is whole while it computes, and the next one comes in meanwhile.
        weights = math.ceil(weights / processes + 2 * weights / sizes.layers)
        gradients, optimizer = math.ceil(gradients / processes), math.ceil(optimizer / processes)
    elif processes > 1:
        # Gradients are exchanged through buffers of their size.
        exchanged = gradients
    activations = _activations(sizes, settings, trainable, tokens, sequence)
    kept = activations
    if not gpu:
        kept = max(kept, _kept_on_cpu(sizes, settings, tokens, sequence))
    logits = _logits(sizes, settings, tokens)
    runtime = RUNTIME["gpu" if gpu else "cpu"]
    # Backward frees activations while gradients come in. The output layer's gradient comes first,
    # and with accumulation all gradients of earlier micro-steps are there.
    early = gradients if numbers["gradientAccumulationSteps"] > 1 else _early(sizes, settings)
    # The optimizer's state, which is made after the first backward, fills gaps of the heap.
    # It works on one matrix at a time, in fp32.
    largest = max(matrix.rows * matrix.columns for matrix in sizes.matrices)
    scratch = 3 * FLOAT * largest if _trains_in_half(method) else 0
    backward = logits + min(early, gradients) + max(kept, activations + optimizer)
    return Memory(
        weights=weights,
        gradients=gradients + exchanged,
        optimizer=optimizer,
        activations=kept,
        logits=logits,
        runtime=runtime,
        total=weights + runtime + exchanged + max(gradients + optimizer + scratch, backward),
        host=RUNTIME["cpu"] + _loaded(sizes, settings) if gpu else None,
    )


def on_gpu(settings: Mapping[str, Any]) -> bool:
    """Whether the job asks for a GPU."""
    return bool(settings["resources"].get("gpu"))


def checkpoints_activations(settings: Mapping[str, Any]) -> bool:
    """Whether activations are computed again; the default depends on the device."""
    return settings["hyperparameters"].get("gradientCheckpointing", on_gpu(settings))


def computes_in_half(settings: Mapping[str, Any]) -> bool:
    """Whether the computation has numbers of 16 bits: auto takes them on a GPU."""
    precision = settings["hyperparameters"]["precision"]
    if _trains_in_half(settings["method"]):
        return True
    return on_gpu(settings) if precision == "auto" else precision != "fp32"


def _weights(sizes: Sizes, settings: Mapping[str, Any], trainable: int) -> int:
    method = settings["method"]
    if method["type"] == "full":
        return (HALF if _trains_in_half(method) else FLOAT) * sizes.parameters
    lora = method["lora"]
    trains_its_own = lora["modulesToSave"] or lora["bias"] != "none"
    width = HALF if computes_in_half(settings) and not trains_its_own else FLOAT
    adapter = FLOAT * trainable
    if method["type"] == "lora":
        return width * sizes.parameters + adapter
    packed = sizes.linear * _quantized_bytes(method["quantization"])
    return math.ceil(packed) + width * (sizes.parameters - sizes.linear) + adapter


def _loaded(sizes: Sizes, settings: Mapping[str, Any]) -> int:
    """Main memory for weights on their way to a GPU: as stored they are only read through."""
    method = settings["method"]["type"]
    half = computes_in_half(settings) and method != "full"
    if method == "qlora" or sizes.stored_as == ("bfloat16" if half else "float32"):
        return 0
    return (HALF if half else FLOAT) * sizes.parameters


def _quantized_bytes(quantization: Mapping[str, Any]) -> float:
    if quantization["bits"] == 8:
        return 1.0
    scale = 1 + FLOAT / 256 if quantization["doubleQuantization"] else FLOAT
    return 0.5 + scale / SCALE_BLOCK


def _trains_in_half(method: Mapping[str, Any]) -> bool:
    """Whether all weights train, in 16 bits."""
    return (method.get("full") or {}).get("weights") == "bf16"


def _optimizer_bytes(settings: Mapping[str, Any]) -> int:
    if _trains_in_half(settings["method"]):
        # The moments in fp32, and what rounding has left of a weight.
        return ADAMW_BYTES + HALF
    arguments = ((settings.get("trainer") or {}).get("trl") or {}).get("arguments") or {}
    return OPTIMIZER_BYTES.get(arguments.get("optim", ""), ADAMW_BYTES)


def _activations(
    sizes: Sizes, settings: Mapping[str, Any], trainable: int, tokens: int, sequence: int
) -> int:
    """What is there when backward begins, with its first temporaries."""
    full = settings["method"]["type"] == "full"
    half = computes_in_half(settings)
    layer = tokens * _layer_bytes(sizes, settings, sequence)
    # autocast keeps a copy in 16 bits of weights that train.
    copies = HALF * (sizes.linear if full else trainable) if half else 0
    if _trains_in_half(settings["method"]):
        copies, full = 0, False
    # Gradients of a layer's inner values; on a CPU they fit into the gaps of the heap.
    inner = 3 * (HALF if half else FLOAT) * sizes.intermediate * tokens if on_gpu(settings) else 0
    if checkpoints_activations(settings):
        # The input of each layer, and all of the one that is computed again.
        width = HALF if half and not full else FLOAT
        kept = tokens * sizes.hidden * sizes.layers * width + layer
    else:
        kept = layer * sizes.layers
    return math.ceil(kept) + copies + inner


def _kept_on_cpu(sizes: Sizes, settings: Mapping[str, Any], tokens: int, sequence: int) -> int:
    share = CHECKPOINTED_HEAP if checkpoints_activations(settings) else HEAP
    return math.ceil(share * tokens * _layer_bytes(sizes, settings, sequence) * sizes.layers)


def _layer_bytes(sizes: Sizes, settings: Mapping[str, Any], sequence: int) -> float:
    """Bytes a token that one layer keeps for backward."""
    method = settings["method"]
    full = method["type"] == "full"
    width = HALF if computes_in_half(settings) else FLOAT
    # What the two norms keep in fp32, then the inputs of the linear layers.
    norms = 2 * FLOAT * sizes.hidden
    if full:
        # Weights of norms that train keep what they scale, and autocast makes a copy in 16 bits
        # for each linear layer that reads it.
        readers = _readers(sizes) if width == HALF else 2
        if _trains_in_half(method):
            # Values between layers are of 16 bits already: what is scaled, and what is read.
            readers, scaled = 2, width
        else:
            scaled = FLOAT
        norms += 2 * scaled * sizes.hidden + readers * width * sizes.hidden
    else:
        norms += 2 * width * sizes.hidden
    # Queries, keys, values and the result; in batches with padding a mask for each row.
    attention = 4 * width * sizes.query + width * sequence + FLOAT * sizes.heads
    inner = 4 * width * sizes.intermediate
    adapter = 0.0
    if not full:
        lora = method["lora"]
        targets = _targets(sizes, lora["targetModules"]) or ()
        inputs = sum(item.columns * item.count for item in targets) / sizes.layers
        modules = sum(item.count for item in targets) / sizes.layers
        adapter = width * lora["rank"] * modules
        if lora["dropout"]:
            # The dropped input of each module, and where it was dropped.
            adapter += (width + 1) * inputs
    return norms + attention + inner + adapter


def _readers(sizes: Sizes) -> float:
    """Linear layers of a layer that read what a norm gives: all as wide but attention's output."""
    wide = sum(m.count for m in sizes.matrices if m.is_linear and m.columns == sizes.hidden)
    return max(wide / sizes.layers - 1, 2)


def _logits(sizes: Sizes, settings: Mapping[str, Any], tokens: int) -> int:
    gpu = on_gpu(settings)
    width = HALF if computes_in_half(settings) else FLOAT
    tile = min(tokens, HEAD_ROWS) * min(sizes.vocabulary, HEAD_COLUMNS)
    states = tokens * sizes.hidden * (FLOAT + width)
    return math.ceil(tile * width * HEAD_TILES["gpu" if gpu else "cpu"]) + states


def _early(sizes: Sizes, settings: Mapping[str, Any]) -> int:
    """The output layer's gradient, where that layer trains."""
    method = settings["method"]
    if method["type"] != "full":
        return 0
    return (HALF if _trains_in_half(method) else FLOAT) * sizes.vocabulary * sizes.hidden


def _targets(sizes: Sizes, names: list[str]) -> list[Matrix] | None:
    if names == ["all-linear"]:
        return [matrix for matrix in sizes.matrices if matrix.is_linear]
    if names == ["family-default"]:
        there = {matrix.name for matrix in sizes.matrices}
        names = list(next((known for known in FAMILY_DEFAULTS if there.issuperset(known)), ()))
        if not names:
            return None
    return _named(sizes, names)


def _named(sizes: Sizes, names: list[str]) -> list[Matrix]:
    last = {name.rsplit(".", 1)[-1] for name in names}
    return [matrix for matrix in sizes.matrices if matrix.name in last]
