"""Tokens per second of the runner's trainer over a bare PyTorch loop and over stock trl.

Same model, rows, batches and LoRA; the three take turns in one process, and CPU seconds count,
so that a busy machine changes little. ``python -m tests.bench.training_speed MODEL_FOLDER``
prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, BATCH, ROUNDS = 60, 16, 3


def main() -> None:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    rows = encoded_rows(folder)
    tokens = sum(len(row.input_ids) for row in rows[: STEPS * BATCH])
    seconds: dict[str, list[float]] = {"bare": [], "runner": [], "stock": []}
    for _ in range(ROUNDS):
        for name, times in seconds.items():
            times.append(bare(folder, rows) if name == "bare" else trained(folder, rows, name))
    speed = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    print(
        json.dumps(
            {
                "tokensPerCpuSecond": {name: round(value) for name, value in speed.items()},
                "runnerOverBare": round(speed["runner"] / speed["bare"], 3),
                "stockOverBare": round(speed["stock"] / speed["bare"], 3),
            }
        )
    )


def encoded_rows(folder: Path) -> list[Any]:
    """Ticket rows with labels on the completion."""
    from kubetune_runner.encoding import encode
    from kubetune_runner.prompts import Example
    from kubetune_runner.sample.tickets import tickets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = [Example(r["prompt"], r["completion"]) for r in tickets(STEPS * BATCH)]
    return encode(examples, tokenizer, 128).rows


def adapter_config() -> Any:
    """LoRA on all linear layers."""
    from peft import LoraConfig

    return LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")


def bare(folder: Path, rows: list[Any]) -> float:
    """CPU seconds of a loop written by hand."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), adapter_config())
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, fused=True, weight_decay=0.0)
    model.train()
    began = time.process_time()
    for start in range(0, STEPS * BATCH, BATCH):
        batch = rows[start : start + BATCH]
        width = max(len(row.input_ids) for row in batch)
        ids = [row.input_ids + [0] * (width - len(row.input_ids)) for row in batch]
        labels = [row.labels + [-100] * (width - len(row.labels)) for row in batch]
        mask = [[1] * len(r.input_ids) + [0] * (width - len(r.input_ids)) for r in batch]
        loss = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(labels),
            use_cache=False,
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - began


def trained(folder: Path, rows: list[Any], name: str) -> float:
    """CPU seconds of ``train()``, by the runner's trainer or trl's own."""
    from datasets import Dataset
    from kubetune_runner import losses
    from kubetune_runner.objectives.sft import SftRun
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    with tempfile.TemporaryDirectory() as output:
        options: dict[str, Any] = {
            "model": AutoModelForCausalLM.from_pretrained(folder),
            "args": SFTConfig(
                output,
                max_steps=STEPS,
                learning_rate=2e-3,
                per_device_train_batch_size=BATCH,
                lr_scheduler_type="constant",
                logging_steps=10,
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            "train_dataset": Dataset.from_dict(
                {
                    "input_ids": [row.input_ids for row in rows],
                    "labels": [row.labels for row in rows],
                }
            ),
            "processing_class": AutoTokenizer.from_pretrained(folder),
            "peft_config": adapter_config(),
        }
        stock_head = losses.trl_utils._use_triton
        try:
            trainer: Any = (
                SftRun(held_out=[], **options) if name == "runner" else SFTTrainer(**options)
            )
            began = time.process_time()
            trainer.train()
            return time.process_time() - began
        finally:
            losses.trl_utils._use_triton = stock_head


if __name__ == "__main__":
    main()
