"""What of axolotl's configuration is kubetune's, and how the rest meets the typed fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, JsonValue

from kubetune.api.schema.base import Value
from kubetune.api.schema.kubernetes_values import ConfigMapKeyRef
from kubetune.api.schema.rules import Rule, exactly_one

MAX_CONFIG_CHARACTERS = 65_536
AXOLOTL_VERSION = "0.21.0"
"""The version that the image has and the table below is about."""


class AxolotlTrainer(Value):
    """axolotl, with a configuration of yours."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("config", "config_map_ref"),)

    config: dict[str, JsonValue] | None = Field(
        default=None,
        max_length=256,
        description="axolotl's configuration, at most 65,536 characters as JSON, without what"
        " kubetune fills in: model, data, output, tracking. Its values win over defaults and"
        " profile. Or give configMapRef.",
    )
    config_map_ref: ConfigMapKeyRef | None = Field(
        default=None,
        description="Key with the configuration as YAML. It is frozen when the first attempt is"
        " submitted. Or give config.",
    )


_TRACKING = "the target's tracking takes the metrics; remove it"
_HUB = "results go to the registry, by output.registry; remove it"
_DATA = "the rows are those of datasetRef and promptRef; remove it"
_ONE = "kubetune starts the processes, which share the training by ddp; remove it"
_METHOD = "set method.type to qlora, and method.quantization"

OWNED: Mapping[str, str] = {
    "base_model": "name the Model in modelRef",
    "base_model_config": "name the Model in modelRef",
    "revision_of_model": "give the revision in the Model",
    "cls_model_config": "name the Model in modelRef",
    "tokenizer_config": "the tokenizer is the Model's; remove it",
    "lora_model_dir": "training starts from a base model; remove it",
    "trust_remote_code": "set trustRemoteCode in the Model",
    "datasets": _DATA,
    "test_datasets": _DATA,
    "pretraining_dataset": _DATA,
    "val_set_size": "set splits in the Dataset",
    "dataset_prepared_path": _DATA,
    "push_dataset_to_hub": _DATA,
    "output_dir": "kubetune takes the result from its own folder; remove it",
    "resume_from_checkpoint": "attempts resume by themselves; remove it",
    "auto_resume_from_checkpoints": "attempts resume by themselves; remove it",
    "load_in_4bit": _METHOD,
    "load_in_8bit": _METHOD,
    "rl": "axolotl runs with objective sft alone; for preferences use trainer.trl",
    "reward_model": "use trainer.trl with objective reward",
    "process_reward_model": "use trainer.trl with objective reward",
    "merge_lora": "set output.merge",
    "hf_use_auth_token": "give the token in the Model or Dataset; remove it",
    "use_mlflow": _TRACKING,
    "hf_mlflow_log_artifacts": _TRACKING,
    "use_wandb": _TRACKING,
    "use_comet": _TRACKING,
    "use_trackio": _TRACKING,
    "use_tensorboard": _TRACKING,
    "use_ray": _ONE,
    "deepspeed": _ONE,
    "fsdp": _ONE,
    "fsdp_config": _ONE,
    "world_size": _ONE,
}
"""Key -> what to do instead."""
OWNED_PREFIXES: Mapping[str, str] = {
    "mlflow_": _TRACKING,
    "wandb_": _TRACKING,
    "comet_": _TRACKING,
    "trackio_": _TRACKING,
    "swanlab_": _TRACKING,
    "hub_": _HUB,
    "ray_": _ONE,
}
TYPED: Mapping[str, str] = {
    "num_epochs": "hyperparameters.epochs",
    "max_steps": "hyperparameters.maxSteps",
    "learning_rate": "hyperparameters.learningRate",
    "micro_batch_size": "hyperparameters.perDeviceBatchSize",
    "gradient_accumulation_steps": "hyperparameters.gradientAccumulationSteps",
    "sequence_len": "hyperparameters.maxLength",
    "sample_packing": "hyperparameters.packing",
    "lr_scheduler": "hyperparameters.scheduler",
    "warmup_ratio": "hyperparameters.warmup",
    "warmup_steps": "hyperparameters.warmup",
    "weight_decay": "hyperparameters.weightDecay",
    "max_grad_norm": "hyperparameters.maxGradNorm",
    "bf16": "hyperparameters.precision",
    "fp16": "hyperparameters.precision",
    "gradient_checkpointing": "hyperparameters.gradientCheckpointing",
    "logging_steps": "hyperparameters.loggingSteps",
    "eval_steps": "hyperparameters.evaluationSteps",
    "seed": "hyperparameters.seed",
    "adapter": "method.type",
    "lora_r": "method.lora.rank",
    "lora_alpha": "method.lora.alpha",
    "lora_dropout": "method.lora.dropout",
    "lora_target_modules": "method.lora.targetModules",
    "lora_target_linear": "method.lora.targetModules",
    "lora_modules_to_save": "method.lora.modulesToSave",
    "peft_use_dora": "method.lora.useDora",
    "peft_use_rslora": "method.lora.useRslora",
    "save_steps": "checkpoint.everySteps",
    "save_total_limit": "checkpoint.keep",
}
"""Key -> field of the job that says the same; only one of the two may be given."""


def instead_of(key: str) -> str:
    """What to do instead of setting a key; empty when it may be set."""
    found = OWNED.get(key)
    if found is None:
        found = next(
            (text for prefix, text in OWNED_PREFIXES.items() if key.startswith(prefix)), ""
        )
    return found


def adapter_of(config: Mapping[str, Any]) -> str | None:
    """The method that the configuration asks for; None when it says nothing."""
    if "adapter" not in config:
        return None
    return str(config["adapter"]) if config["adapter"] else "full"
