"""Which weights are trained: adapters, adapters on quantized weights, or all of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import Value
from kubetune.api.schema.rules import Rule

MethodType = Literal["lora", "qlora", "full"]
ComputeFormat = Literal["fp32", "bf16", "fp16"]


ModuleName = Annotated[str, Field(min_length=1, max_length=256)]
EIGHT_BITS = 8


class LoraSettings(Value):
    """Settings of a low-rank adapter, named as in peft."""

    rank: int | None = Field(
        default=None, ge=1, le=1024, description="Rank of the update matrices. Default 16."
    )
    alpha: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Scaling numerator; updates are scaled by alpha / rank."
        " Default twice the rank.",
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Dropout on the adapter's input, 0 to 1. Default 0."
    )
    target_modules: list[ModuleName] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Names of the modules that get an adapter, or a single item: all-linear, or"
        " family-default for those that peft adapts in models of this family. Default all-linear;"
        " for mixtral, qwen2_moe and qwen3_moe the projections of the attention.",
    )
    bias: Literal["none", "all", "lora_only"] | None = Field(
        default=None, description="Which biases train: none, all or lora_only. Default none."
    )
    use_rslora: bool | None = Field(
        default=None, description="Scale by alpha / sqrt(rank) instead. Default false."
    )
    use_dora: bool | None = Field(
        default=None,
        description="Learn the magnitude of the weights apart from their direction (DoRA): better"
        " at low ranks, slower. Default false.",
    )
    modules_to_save: list[ModuleName] | None = Field(
        default=None,
        max_length=64,
        description="Names of modules that train with all their weights and are stored with the"
        " adapter, such as embed_tokens. Default: none.",
    )


class Quantization(Value):
    """How the frozen weights are stored while an adapter trains on them, by bitsandbytes."""

    bits: Literal[4, 8] | None = Field(
        default=None, description="Bits of a weight: 4 or 8. Default 4."
    )
    type: Literal["nf4", "fp4"] | None = Field(
        default=None, description="Number format of 4 bits: nf4 or fp4. Default nf4."
    )
    double_quantization: bool | None = Field(
        default=None,
        description="Store the scales of 4-bit weights in 8 bits too. Default true.",
    )
    compute_dtype: ComputeFormat | None = Field(
        default=None,
        description="Format that 4-bit weights are turned into for a computation. Default: what"
        " hyperparameters.precision means on the device.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.bits) || self.bits == 4 || !(has(self.type) ||"
            " has(self.doubleQuantization) || has(self.computeDtype))",
            message="type, doubleQuantization and computeDtype go with 4 bits; remove them or"
            " set bits to 4",
            check=lambda given: (
                given.bits != EIGHT_BITS
                or (given.type, given.double_quantization, given.compute_dtype)
                == (None, None, None)
            ),
        ),
    )


class FullSettings(Value):
    """How all weights train."""

    weights: Literal["fp32", "bf16"] | None = Field(
        default=None,
        description="Number format of the weights while they train, and of the result. bf16 takes"
        " 14 bytes a weight in place of 16, with an AdamW of its own that keeps what rounding would"
        " lose; the model is computed in bf16 then. Default fp32.",
    )


class Method(Value):
    """How weights change."""

    type: MethodType | None = Field(
        default=None,
        description="lora trains an adapter, qlora an adapter on quantized weights, full all"
        " weights. Default lora.",
    )
    lora: LoraSettings | None = Field(
        default=None, description="Settings of the adapter, for types lora and qlora."
    )
    quantization: Quantization | None = Field(
        default=None,
        description="Settings of type qlora. Default: 4 bits, nf4, double quantization.",
    )

    full: FullSettings | None = Field(default=None, description="Settings of type full.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.full) || (!has(self.type) || self.type == 'full') &&"
            " !has(self.lora) && !has(self.quantization)",
            message="full settings go with type full; remove them or what is of other types",
            check=lambda method: (
                method.full is None
                or (
                    method.type in (None, "full")
                    and method.lora is None
                    and method.quantization is None
                )
            ),
            field="full",
        ),
        Rule(
            cel="!has(self.lora) || !has(self.type) || self.type != 'full'",
            message="lora settings go with types lora and qlora; remove them or change the type",
            check=lambda method: method.lora is None or method.type != "full",
            field="lora",
        ),
        Rule(
            cel="!has(self.quantization) || !has(self.type) || self.type == 'qlora'",
            message="quantization goes with type qlora; remove it or change the type",
            check=lambda method: method.quantization is None or method.type in (None, "qlora"),
            field="quantization",
        ),
    )
