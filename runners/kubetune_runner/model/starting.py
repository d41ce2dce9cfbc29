"""Where training starts: a base model, an adapter that continues, or one merged into its base.

``fetch`` reads and checks files without torch; ``load`` makes a model of them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import ENV_BASE_MODEL_TOKEN, ModelPlan
from kubetune.api.run.training_plan import LoraPlan, TrainingPlan

from kubetune_runner.errors import RunError
from kubetune_runner.model import loading, merging
from kubetune_runner.stages import UNWATCHED, Watch


@dataclass
class StartingModel:
    """The files that training starts from."""

    base: ModelPlan
    folder: Path
    """Files of the base model; of the merged one, once it is made."""
    adapter: Path | None = None
    """Files of the adapter that continues training."""
    unmerged: Path | None = None
    """Files of the adapter that ``load`` merges into the base."""
    merged: bool = False
    """Whether the start is a model that is stored nowhere, so the result must be whole."""

    scratch: Path | None = None
    """What ``load`` wrote."""

    def discard(self) -> None:
        """Delete what was written: a project's disk outlives the run."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def tokenizer(self) -> Path:
        """Files of the tokenizer: an adapter may bring its own."""
        own = self.adapter or self.unmerged
        if own is not None and (own / "tokenizer_config.json").is_file():
            return own
        return self.folder


def fetch(model: ModelPlan, training: TrainingPlan, watch: Watch = UNWATCHED) -> StartingModel:
    """Find the files, and check those of an adapter; ``watch`` is told how much is downloaded.

    Raises RunError AdapterAsBase, PlanInvalid, AdapterUnsupported, AdapterMismatch, and those of
    ``loading.fetch``.
    """
    how = training.continue_from
    if model.type != "adapter":
        return StartingModel(model, loading.fetch(model, watch=watch))
    if how is None:
        raise RunError(
            "AdapterAsBase",
            f"model {model.name} is an adapter: set spec.continueFrom to adapter or merged, or"
            " name its base model",
        )
    if model.base is None:
        raise RunError("PlanInvalid", f"plan: model.base is missing for adapter {model.name}")
    base = loading.fetch(model.base, ENV_BASE_MODEL_TOKEN, watch)
    adapter = loading.fetch(model, watch=watch)
    config: dict[str, Any] = json_file(adapter / loading.ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise RunError(
            "AdapterUnsupported",
            f"model {model.name} is an adapter of type {config.get('peft_type')}: training"
            " continues from LoRA adapters only; name its base model",
        )
    if how == "merged":
        return StartingModel(model.base, base, unmerged=adapter, merged=True)
    if training.lora is not None:
        _check_settings(model, config, training.lora)
    return StartingModel(model.base, base, adapter=adapter)


def load(
    start: StartingModel, training: TrainingPlan, quantized: Any, *, score_seed: int | None = None
) -> Any:
    """The model that trains; with an adapter on it when that continues.

    ``quantized`` is ``quantization.configuration`` or None; ``score_seed`` as in
    ``loading.load_model``.
    """
    from kubetune_runner.training.trainer import weights_dtype

    if start.unmerged is not None:
        start.scratch = folder = merging.scratch("start")
        merging.merge(start.base, start.folder, start.unmerged, folder)
        start.folder, start.unmerged = folder, None
    model = loading.load_model(
        start.base, start.folder, weights_dtype(training), quantized, score_seed=score_seed
    )
    if start.adapter is None:
        return model
    return merging.with_adapter(
        model, start.adapter, dropout=training.lora.dropout if training.lora else None
    )


def _check_settings(model: ModelPlan, config: dict[str, Any], lora: LoraPlan) -> None:
    """The operator knows an adapter from its inspection; what it couldn't know is checked here."""
    wanted: dict[str, tuple[Any, Any]] = {
        "rank": (lora.rank, config.get("r")),
        "alpha": (lora.alpha, config.get("lora_alpha")),
        "useDora": (lora.use_dora, bool(config.get("use_dora"))),
        "useRslora": (lora.use_rslora, bool(config.get("use_rslora"))),
        "bias": (lora.bias, config.get("bias") or "none"),
    }
    if lora.target_modules:
        found: Any = config.get("target_modules") or []
        names = [found] if isinstance(found, str) else found
        wanted["targetModules"] = (sorted(lora.target_modules), sorted(names))
    for name, (asked, has) in wanted.items():
        if asked != has:
            raise RunError(
                "AdapterMismatch",
                f"method.lora.{name} is {asked}, but adapter {model.name} has {has}: remove"
                f" {name}, or use continueFrom merged",
            )
