"""Seconds of the runner's trainer, of a bare PyTorch loop and of stock trl.

Same model, rows, batches and LoRA; the three take turns in one process with one thread, and CPU
seconds count. A step has the same rows in each round, and the least that it took in any of them
counts, so that a busy machine changes little. Where there is a GPU they train on it in
bf16, and it is the clock that counts. ``python -m tests.bench.training_speed JSON`` prints one
line of JSON. ``JSON`` has the ``sizes`` of a Llama with random weights, ``batch`` and ``length``
of rows, how many tokens at their end are ``learned``, ``steps`` and ``rounds``.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .training_memory import make_model, make_tokenizer

SEED = 42


def main() -> None:
    """Measure and print."""
    import torch
    from transformers import set_seed

    torch.set_num_threads(1)
    case: dict[str, Any] = json.loads(sys.argv[1])
    rounds: dict[str, list[list[float]]] = {"bare": [], "runner": [], "stock": []}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        set_seed(SEED)
        make_model(folder, case["sizes"])
        rows = random_rows(case)
        for _ in range(case["rounds"]):
            for name, taken in rounds.items():
                # The model before has cycles; what is left of it would cost the next one.
                gc.collect()
                # Equal adapters to start from.
                set_seed(SEED)
                train = bare if name == "bare" else trained
                times, losses[name] = train(folder, rows, case, name)
                taken.append(times)
    both = zip(losses["runner"], losses["stock"], strict=True)
    print(
        json.dumps(
            {
                "seconds": {
                    name: sum(min(step) for step in zip(*taken, strict=True))
                    for name, taken in rounds.items()
                },
                "lossDifference": max(abs(one - other) for one, other in both),
                "tokens": sum(len(row.input_ids) for row in rows),
            }
        )
    )


def random_rows(case: dict[str, Any]) -> list[Any]:
    """Rows of tokens by chance, about as long as asked."""
    from kubetune_runner.text.encoding import EncodedRow

    chance = random.Random(SEED)
    rows: list[Any] = []
    for _ in range(case["steps"] * case["batch"]):
        length = chance.randint(case["length"] * 3 // 4, case["length"])
        ids = [chance.randrange(2, case["sizes"]["vocab_size"]) for _ in range(length)]
        masked = length - case["learned"]
        rows.append(EncodedRow(ids, [-100] * masked + ids[masked:]))
    return rows


def loaded(folder: Path) -> Any:
    """The model in the number format of its device."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def clock() -> float:
    """CPU seconds of this process; with a GPU, seconds, once that has done all it was given."""
    import torch

    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def adapter_config() -> Any:
    """LoRA on all linear layers."""
    from peft import LoraConfig

    return LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")


Trained = tuple[list[float], list[float]]


def bare(folder: Path, rows: list[Any], case: dict[str, Any], _: str) -> Trained:
    """Seconds and losses of the steps of a loop written by hand."""
    import torch
    from peft import get_peft_model

    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    model: Any = get_peft_model(loaded(folder), adapter_config()).to(device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, fused=True, weight_decay=0.0)
    model.train()
    losses: list[float] = []
    clocks = [clock()]
    for start in range(0, len(rows), case["batch"]):
        batch = rows[start : start + case["batch"]]
        width = max(len(row.input_ids) for row in batch)
        ids = [row.input_ids + [0] * (width - len(row.input_ids)) for row in batch]
        labels = [row.labels + [-100] * (width - len(row.labels)) for row in batch]
        mask = [[1] * len(r.input_ids) + [0] * (width - len(r.input_ids)) for r in batch]
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            loss = model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                labels=torch.tensor(labels, device=device),
                use_cache=False,
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        clocks.append(clock())
    return differences(clocks), losses


def differences(clocks: list[float]) -> list[float]:
    """What went by between one time and the next."""
    return [end - begin for begin, end in itertools.pairwise(clocks)]


def trained(folder: Path, rows: list[Any], case: dict[str, Any], name: str) -> Trained:
    """Seconds and losses of the steps of ``train()``, by the runner's trainer or trl's own."""
    import torch
    from datasets import Dataset
    from kubetune_runner.model import heads
    from kubetune_runner.training.objectives.sft import SftRun
    from transformers.trainer_callback import TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    clocks: list[float] = []

    class StepClock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clocks.append(clock())

    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as output:
        options: dict[str, Any] = {
            "model": loaded(folder),
            "args": SFTConfig(
                output,
                max_steps=case["steps"],
                learning_rate=2e-3,
                per_device_train_batch_size=case["batch"],
                lr_scheduler_type="constant",
                logging_steps=1,
                bf16=gpu,
                gradient_checkpointing=False,
                use_cpu=not gpu,
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
            "processing_class": make_tokenizer(),
            "peft_config": adapter_config(),
            "callbacks": [StepClock()],
        }
        stock_head = heads.trl_utils._use_triton
        try:
            trainer: Any = (
                SftRun(held_out=[], **options) if name == "runner" else SFTTrainer(**options)
            )
            if name == "runner":
                # As in a run: accelerate collects garbage once, and here the heap is large.
                gc.freeze()
            clocks.append(clock())
            trainer.train()
            entries = trainer.state.log_history
            return differences(clocks), [entry["loss"] for entry in entries if "loss" in entry]
        finally:
            heads.trl_utils._use_triton = stock_head


if __name__ == "__main__":
    main()
