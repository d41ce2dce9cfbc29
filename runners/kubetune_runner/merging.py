"""An adapter becomes part of its base model's weights, which no library needs to know of then."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from kubetune.api.plan import WORK_DIRECTORY, ModelPlan, in_container

from kubetune_runner import models
from kubetune_runner.errors import RunError

log = logging.getLogger(__name__)


def scratch(name: str) -> Path:
    """An empty folder for a model that this attempt alone needs."""
    work = in_container(WORK_DIRECTORY)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work if work.is_dir() else None))


def with_adapter(model: Any, adapter: Path, *, dropout: float | None = None) -> Any:
    """The model with an adapter on it that trains."""
    from peft import PeftConfig, PeftModel

    config: Any = PeftConfig.from_pretrained(str(adapter))
    if dropout is not None:
        config.lora_dropout = dropout
    try:
        return PeftModel.from_pretrained(model, str(adapter), config=config, is_trainable=True)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _unfit(error) from error


def merge(base: ModelPlan, folder: Path, adapter: Path, into: Path) -> Any:
    """Write the model in ``folder`` with the adapter merged in; returns its number format.

    That is the format of the base's own weights, unquantized. Raises RunError AdapterUnfit.
    """
    import torch
    from peft import PeftModel

    model = models.load_model(base, folder, "auto")
    dtype = model.dtype
    try:
        merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(
            safe_merge=True
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise _unfit(error) from error
    # Modules that trained whole come in the format they trained in.
    for parameter in merged.parameters():
        if parameter.dtype != dtype and parameter.dtype.is_floating_point:
            parameter.data = parameter.data.to(dtype)
    with torch.no_grad():
        merged.save_pretrained(into)
    log.info("merged the adapter into %s", base.name)
    return dtype


def _unfit(error: Exception) -> RunError:
    return RunError(
        "AdapterUnfit",
        f"the adapter doesn't fit its base model: {str(error).splitlines()[0][:400]}: name the"
        " model that it was trained on in spec.baseModelRef of its Model",
    )
