"""Arguments of trl's configuration classes that a user may not set, and what to do instead.

Read by ``generate_trl_arguments.py``. Three sorts: those with a typed field of their own, those
that the runner must decide, and those that would reach outside the run. What is refused here is
refused with every objective; ``NOT_WITH`` takes a name from some of them alone.
"""

_HYPERPARAMETERS = {
    "per_device_train_batch_size": "perDeviceBatchSize",
    "auto_find_batch_size": "perDeviceBatchSize",
    "num_train_epochs": "epochs",
    "max_steps": "maxSteps",
    "learning_rate": "learningRate",
    "lr_scheduler_type": "scheduler",
    "warmup_steps": "warmup",
    "weight_decay": "weightDecay",
    "gradient_accumulation_steps": "gradientAccumulationSteps",
    "max_grad_norm": "maxGradNorm",
    "bf16": "precision",
    "fp16": "precision",
    "gradient_checkpointing": "gradientCheckpointing",
    "activation_checkpointing": "gradientCheckpointing",
    "logging_steps": "loggingSteps",
    "logging_strategy": "loggingSteps",
    "eval_steps": "evaluationSteps",
    "eval_strategy": "evaluationSteps",
    "seed": "seed",
    "data_seed": "seed",
    "max_length": "maxLength",
    "packing": "packing",
    "packing_strategy": "packing",
}

_SETTINGS = {
    "beta": "use spec.dpo.beta or spec.kto.beta",
    "loss_weights": "use spec.dpo.lossWeights",
    "label_smoothing": "use spec.dpo.labelSmoothing",
    "desirable_weight": "use spec.kto.desirableWeight",
    "undesirable_weight": "use spec.kto.undesirableWeight",
    "center_rewards_coefficient": "use spec.reward.centerRewardsCoefficient",
}

_REFERENCE = "the reference is the untrained model; leave it out"
_NO_HUB = "runs push nothing to a hub; use spec.output.registry"
_WORKERS = "use spec.workers and spec.strategy"
_TRACKING = "runs report to the compute target's tracking server; leave it out"
_CHECKPOINTS = "checkpoints are kubetune's; use spec.checkpoint"
_ENTRY_POINT = "the runner decides what it does; leave it out"
_BEST_MODEL = "the last weights are the result; leave it out"

_OTHERS = {
    "output_dir": "runs have their own scratch space; leave it out",
    "report_to": _TRACKING,
    "run_name": _TRACKING,
    "project": _TRACKING,
    "trackio_space_id": _TRACKING,
    "trackio_bucket_id": _TRACKING,
    "trackio_static_space_id": _TRACKING,
    "push_to_hub": _NO_HUB,
    "hub_token": _NO_HUB,
    "hub_private_repo": _NO_HUB,
    "hub_model_id": _NO_HUB,
    "hub_strategy": _NO_HUB,
    "hub_always_push": _NO_HUB,
    "hub_revision": _NO_HUB,
    "save_strategy": "use spec.checkpoint.everySteps",
    "save_steps": "use spec.checkpoint.everySteps",
    "save_total_limit": "use spec.checkpoint.keep",
    "save_only_model": _CHECKPOINTS,
    "save_on_each_node": _CHECKPOINTS,
    "enable_jit_checkpoint": _CHECKPOINTS,
    "resume_from_checkpoint": _CHECKPOINTS,
    "restore_callback_states_from_checkpoint": _CHECKPOINTS,
    "ignore_data_skip": _CHECKPOINTS,
    "load_best_model_at_end": _BEST_MODEL,
    "metric_for_best_model": _BEST_MODEL,
    "greater_is_better": _BEST_MODEL,
    "do_train": _ENTRY_POINT,
    "do_eval": _ENTRY_POINT,
    "do_predict": _ENTRY_POINT,
    "local_rank": _WORKERS,
    "deepspeed": _WORKERS,
    "fsdp": _WORKERS,
    "fsdp_config": _WORKERS,
    "parallelism_config": _WORKERS,
    "accelerator_config": _WORKERS,
    "ddp_find_unused_parameters": _WORKERS,
    "ddp_bucket_cap_mb": _WORKERS,
    "ddp_broadcast_buffers": _WORKERS,
    "ddp_static_graph": _WORKERS,
    "ddp_backend": _WORKERS,
    "ddp_timeout": _WORKERS,
    "log_on_each_node": _WORKERS,
    "log_level_replica": _WORKERS,
    "use_cpu": "use spec.resources.gpu; without a GPU a run computes on CPUs",
    "disable_tqdm": "progress is in status.progress; leave it out",
    "trust_remote_code": "set trustRemoteCode on the Model",
    "model_init_kwargs": "the Model says what is loaded, spec.hyperparameters.precision how",
    "chat_template_path": "use tokenizer.chatTemplate",
    "pad_token": "use tokenizer.padToken",
    "dataset_text_field": "set columns on the Dataset",
    "dataset_kwargs": "the runner prepares the rows; set format and columns on the Dataset",
    "remove_unused_columns": "the runner prepares the rows; leave it out",
    "label_names": "the runner prepares the rows; leave it out",
    "length_column_name": "the runner prepares the rows; leave it out",
    "include_for_metrics": "use spec.evaluation",
    "prediction_loss_only": "use spec.evaluation",
    "batch_eval_metrics": "use spec.evaluation",
    "include_num_input_tokens_seen": "the runner counts tokens; leave it out",
    "gradient_checkpointing_kwargs": "use activation_checkpointing_kwargs",
    "sync_ref_model": _REFERENCE,
    "ref_model_mixup_alpha": _REFERENCE,
    "ref_model_sync_steps": _REFERENCE,
    "disable_dropout": "only the adapter's dropout is on, which method.lora.dropout sets",
}

OWNED: dict[str, str] = {
    **{name: f"use spec.hyperparameters.{field}" for name, field in _HYPERPARAMETERS.items()},
    **_SETTINGS,
    **_OTHERS,
}

# The runner cuts the rows, ends them and, for kto, orders them; losses are typed settings.
_ROWS = ("train_sampling_strategy", "padding_free", "truncation_mode", "eos_token")
NOT_WITH: dict[str, tuple[str, ...]] = {
    "dpo": ("loss_type", *_ROWS),
    "kto": ("loss_type", *_ROWS),
    "reward": _ROWS,
}
"""Objective -> arguments of its configuration class that it takes no value for."""
