"""The number format that a run computes in, on the device that it finds."""

from __future__ import annotations

from typing import Any

import torch

from kubetune_runner.errors import RunError

DTYPES: dict[str, Any] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def chosen(wanted: str, field: str) -> str:
    """fp32, bf16 or fp16; auto is bf16 on a GPU that has it, else fp32.

    Raises RunError PrecisionUnsupported naming ``field``.
    """
    gpu = torch.cuda.is_available()
    if wanted == "auto":
        return "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if wanted == "fp16" and not gpu:
        raise RunError(
            "PrecisionUnsupported",
            f"{field} is fp16, which needs a GPU: use auto, or set resources.gpu",
        )
    return wanted
