"""axolotl as the code that trains: its configuration, made of the plan and what the user gives.

It runs with a Python of its own, since its pins conflict with the runner's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubetune.api.run.plan import RunPlan
from kubetune.api.run.training_plan import LoraPlan, TrainingPlan
from kubetune.api.training.axolotl import adapter_of, instead_of

from kubetune_runner.errors import RunError

ENV_PYTHON = "AXOLOTL_PYTHON"
"""The Python that has axolotl, instead of the image's."""
IMAGE_PYTHON = "/opt/axolotl/bin/python"
MODULE = "axolotl.cli.train"
LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
_ALTERNATIVES = (
    ("num_epochs", "max_steps"),
    ("warmup_ratio", "warmup_steps"),
    ("lora_target_linear", "lora_target_modules"),
    ("bf16", "fp16", "bfloat16", "float16"),
    ("chat_template", "chat_template_jinja"),
)
"""Keys that say the same in several ways: one of the user's takes the place of all of ours."""


def command(inherited: Mapping[str, str], config: Path) -> list[str]:
    """How axolotl is started. Raises RunError AxolotlMissing."""
    python = inherited.get(ENV_PYTHON) or IMAGE_PYTHON
    found = shutil.which(python)
    if found is None:
        raise RunError(
            "AxolotlMissing",
            f"there is no {python}: name an image with axolotl in spec.kubernetes.axolotlImage of"
            f" the compute target, or the Python that has it in the variable {ENV_PYTHON}",
        )
    return [found, "-m", MODULE, str(config)]


def environment() -> dict[str, str]:
    """Variables of axolotl's own."""
    # No figures about the run to anybody.
    return {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}


def write(
    plan: RunPlan, model: Path, rows: Mapping[str, Path], scratch: Path, output: Path
) -> Path:
    """Write the configuration; ``rows`` are the files of the splits train and eval."""
    path = scratch / "config.yml"
    gpu = has_gpu(os.environ)
    document = configuration(plan, model, rows, scratch, output, gpu=gpu)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def configuration(
    plan: RunPlan,
    model: Path,
    rows: Mapping[str, Path],
    scratch: Path,
    output: Path,
    *,
    gpu: bool,
) -> dict[str, Any]:
    """axolotl's whole configuration: the plan's settings, over them the user's, over them ours.

    Raises RunError PlanInvalid for a key that is ours.
    """
    training = plan.training
    given = training.axolotl.config if training.axolotl else {}
    for key in given:
        if instead := instead_of(key):
            raise RunError("PlanInvalid", f"trainer.axolotl: {key}: {instead}")
    base = _settings(training, gpu=gpu)
    for keys in _ALTERNATIVES:
        if any(key in given for key in keys):
            base = {key: value for key, value in base.items() if key not in keys}
    own: dict[str, Any] = {
        "base_model": str(model),
        "trust_remote_code": plan.model.trust_remote_code,
        "datasets": [_dataset(rows["train"])],
        "dataset_prepared_path": str(scratch / "prepared"),
        "output_dir": str(output),
        "auto_resume_from_checkpoints": True,
    }
    if "eval" in rows and ("eval_steps" in base or "eval_steps" in given):
        own["test_datasets"] = [_dataset(rows["eval"])]
    else:
        own["val_set_size"] = 0
    return {**base, **given, **own}


def has_gpu(environment: Mapping[str, str]) -> bool:
    """Whether an NVIDIA GPU is visible here; no torch."""
    devices = Path("/dev").glob("nvidia[0-9]*")
    return environment.get("CUDA_VISIBLE_DEVICES") != "" and any(devices)


def _settings(training: TrainingPlan, *, gpu: bool) -> dict[str, Any]:
    numbers = training.hyperparameters
    found: dict[str, Any] = {
        "num_epochs": numbers.epochs,
        "max_steps": numbers.max_steps,
        "learning_rate": numbers.learning_rate,
        "micro_batch_size": numbers.per_device_batch_size,
        "gradient_accumulation_steps": numbers.gradient_accumulation_steps,
        "sequence_len": numbers.max_length,
        "sample_packing": numbers.packing,
        "lr_scheduler": numbers.scheduler,
        "optimizer": "adamw_torch",
        "weight_decay": numbers.weight_decay,
        "max_grad_norm": numbers.max_grad_norm,
        "gradient_checkpointing": gpu
        if numbers.gradient_checkpointing is None
        else numbers.gradient_checkpointing,
        "logging_steps": numbers.logging_steps,
        "eval_steps": numbers.evaluation_steps,
        "seed": numbers.seed,
        "save_steps": training.checkpoint.every_steps,
        "save_total_limit": training.checkpoint.keep,
        "tf32": False if not gpu else None,
        **_precision(numbers.precision, gpu=gpu),
    }
    if numbers.warmup < 1:
        found["warmup_ratio"] = numbers.warmup
    else:
        found["warmup_steps"] = int(numbers.warmup)
    if training.tokenizer and training.tokenizer.chat_template:
        found |= {
            "chat_template": "jinja",
            "chat_template_jinja": training.tokenizer.chat_template,
        }
    if training.tokenizer and training.tokenizer.pad_token:
        found["special_tokens"] = {"pad_token": training.tokenizer.pad_token}
    config = training.axolotl.config if training.axolotl else {}
    if (adapter_of(config) or training.method) != "full" and training.lora:
        found |= {"adapter": training.method, **_lora(training.lora)}
        bits = training.quantization.bits if training.quantization else None
        if training.method == "qlora":
            found |= {"load_in_4bit": bits != 8, "load_in_8bit": bits == 8}
    if not gpu:
        # They are Triton's, and on by default; a CPU has none.
        found |= dict.fromkeys(LORA_KERNELS, False)
    return {key: value for key, value in found.items() if value is not None}


def _precision(wanted: str, *, gpu: bool) -> dict[str, Any]:
    if wanted == "auto":
        return {"bf16": "auto" if gpu else False, "fp16": False}
    return {"bf16": wanted == "bf16", "fp16": wanted == "fp16"}


def _lora(lora: LoraPlan) -> dict[str, Any]:
    targets: dict[str, Any] = {"lora_target_modules": list(lora.target_modules)}
    if lora.target_modules == ["all-linear"]:
        targets = {"lora_target_linear": True}
    elif lora.target_modules == ["family-default"]:
        targets = {}
    return {
        "lora_r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        **targets,
        "peft_use_rslora": lora.use_rslora or None,
        "peft_use_dora": lora.use_dora or None,
        "lora_modules_to_save": list(lora.modules_to_save) or None,
    }


def _dataset(path: Path) -> dict[str, Any]:
    """The rows of a file as axolotl reads them."""
    with path.open(encoding="utf-8") as stream:
        first: dict[str, Any] = json.loads(stream.readline())
    common = {"path": str(path), "ds_type": "json"}
    if "messages" in first:
        return {**common, "type": "chat_template", "field_messages": "messages"}
    if "text" in first:
        return {**common, "type": "completion", "field": "text"}
    plain = {
        "field_instruction": "prompt",
        "field_output": "completion",
        # Nothing is put around a prompt: the PromptTemplate has done that.
        "format": "{instruction}",
        "no_input_format": "{instruction}",
    }
    return {**common, "type": plain}
