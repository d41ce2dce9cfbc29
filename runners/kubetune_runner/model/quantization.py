"""Loading a model with its weights in 4 or 8 bits, by bitsandbytes."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import ModelPlan
from kubetune.api.run.training_plan import QuantizationPlan, TrainingPlan

from kubetune_runner.errors import RunError


def leave_out() -> None:
    """Hide bitsandbytes from peft, which imports it where it finds it: two seconds of CPU."""
    sys.modules.setdefault("bitsandbytes", None)  # pyright: ignore[reportArgumentType]


def check(model: ModelPlan, folder: Path, *, quantize: bool) -> None:
    """Refuse what can't be quantized, or can't train; no torch.

    Raises RunError ModelQuantized, BitsandbytesMissing.
    """
    config: dict[str, Any] = json_file(folder / "config.json")
    text: dict[str, Any] = config.get("text_config") or {}
    found = config.get("quantization_config") or text.get("quantization_config")
    if found is not None:
        how = found.get("quant_method") or "in an unknown way"
        raise RunError(
            "ModelQuantized",
            f"model {model.name} is quantized already ({how}), so it can't be trained on: name"
            " the model it was made from; method.type qlora quantizes that while loading",
        )
    if quantize and find_spec("bitsandbytes") is None:
        raise RunError(
            "BitsandbytesMissing",
            "method.type qlora needs the package bitsandbytes, which isn't installed where the"
            " run is: install kubetune[runner] there, or use lora",
        )


def of_base(plan: TrainingPlan, dtype: Any, *, sharded: bool = False) -> Any:
    """How method qlora loads the base model; None for the others.

    ``sharded`` weights are stored as numbers that several processes can share out.
    """
    if plan.method != "qlora" or plan.quantization is None:
        return None
    dora = bool(plan.lora and plan.lora.use_dora)
    found = configuration(plan.quantization, dtype, dora=dora)
    if sharded:
        # Packed: bytes can't be shared out, since they can't have gradients.
        found.bnb_4bit_quant_storage = dtype
    return found


def configuration(plan: QuantizationPlan, dtype: Any, *, dora: bool) -> Any:
    """transformers' configuration; ``dtype`` is the format of computations.

    Raises RunError DoraUnsupported, PrecisionUnsupported.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if plan.bits == 8:
        # peft 0.21 loses the scales of 8-bit weights when it reads them on a CPU for DoRA.
        if dora and not torch.cuda.is_available():
            raise RunError(
                "DoraUnsupported",
                "method.lora.useDora on weights of 8 bits needs a GPU: set quantization.bits to 4,"
                " leave useDora out, or set resources.gpu",
            )
        return BitsAndBytesConfig(load_in_8bit=True)
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if plan.compute_dtype == "fp16" and not torch.cuda.is_available():
        raise RunError(
            "PrecisionUnsupported",
            "method.quantization.computeDtype is fp16, which needs a GPU: leave it out, or set"
            " resources.gpu",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.type or "nf4",
        bnb_4bit_use_double_quant=plan.double_quantization is not False,
        bnb_4bit_compute_dtype=formats[plan.compute_dtype] if plan.compute_dtype else dtype,
    )


def compute_plainly(model: Any) -> Any:
    """The model, with 4-bit weights that stay as they are stored.

    On a CPU with AVX512-BF16 bitsandbytes packs them again at the first forward that needs no
    gradients and computes in bf16 from then on, in training too. What is measured then is
    another model than the one that is trained and reported.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
