"""Peak memory of one training by the runner, in a process of its own.

``python -m tests.bench.training_memory JSON`` trains three steps and prints one line of JSON.
``JSON`` has the model's ``sizes`` (arguments of LlamaConfig), the plan's ``training``, and
rows of ``length`` tokens, all of which are learned. Where there is a GPU its memory counts.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 3
MIB = 1024**2


def main() -> None:
    """Train and print."""
    import torch

    torch.set_num_threads(1)
    case: dict[str, Any] = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(Path(folder), case)))


def measured(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Mebibytes before the model is loaded and at most afterwards, and the model's inspection."""
    import torch
    from kubetune.api.run.plan import ModelPlan
    from kubetune.api.run.training_plan import TrainingPlan
    from kubetune_runner.inspection.model import inspect_model
    from kubetune_runner.model import adapters, loading, quantization
    from kubetune_runner.text.encoding import EncodedRow
    from kubetune_runner.training import trainer as training
    from kubetune_runner.training.objectives.sft import OBJECTIVE, SftRun

    make_model(folder / "model", case["sizes"])
    plan = TrainingPlan.model_validate(case["training"])
    length = case["length"]
    ids = list(range(2, length + 2))
    row = EncodedRow(ids, ids)
    numbers = plan.hyperparameters
    rows = [row] * (STEPS * numbers.per_device_batch_size * numbers.gradient_accumulation_steps)
    tokenizer = make_tokenizer()
    arguments = training.arguments(
        OBJECTIVE.configuration, OBJECTIVE.arguments(plan), plan, folder / "output", evaluates=False
    )
    warm_up(folder, plan, tokenizer, arguments)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_reserved() / MIB
    else:
        base = resident("VmRSS")
        forget_peak()
    source = ModelPlan(name="base", directory=str(folder / "model"))
    model = loading.load_model(
        source,
        folder / "model",
        training.weights_dtype(plan),
        quantization.of_base(plan, training.compute_dtype(plan)),
    )
    trainer = SftRun(
        held_out=[],
        model=model,
        args=arguments,
        train_dataset=OBJECTIVE.table(rows, plan),
        processing_class=tokenizer,
        peft_config=adapters.lora_config(model, plan.lora) if plan.lora else None,
    )
    trainer.train()
    peak = torch.cuda.max_memory_reserved() / MIB if gpu else resident("VmHWM")
    return {"base": base, "peak": peak, "model": inspect_model(source, None).to_json()}


def make_model(folder: Path, sizes: dict[str, Any]) -> None:
    """A Llama with random weights; for a GPU in bf16, as large models are kept."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if torch.cuda.is_available():
        with torch.device("cuda"):
            model = LlamaForCausalLM(LlamaConfig(**sizes)).bfloat16()
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(folder)


def make_tokenizer() -> Any:
    """A tokenizer of which only the pad token is needed."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[UNK]": 0, "<pad>": 1}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="[UNK]")


def warm_up(folder: Path, plan: Any, tokenizer: Any, arguments: Any) -> None:
    """Train a model of no size, so that what the libraries allocate once is in the base."""
    import dataclasses

    from kubetune_runner.text.encoding import EncodedRow
    from kubetune_runner.training.objectives.sft import OBJECTIVE, SftRun
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, vocab_size=64,
    )  # fmt: skip
    SftRun(
        held_out=[],
        model=LlamaForCausalLM(config),
        args=dataclasses.replace(arguments, max_steps=1, output_dir=str(folder / "warm")),
        train_dataset=OBJECTIVE.table([EncodedRow([2, 3], [2, 3])], plan),
        processing_class=tokenizer,
        peft_config=None,
    ).train()


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process, in mebibytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


def forget_peak() -> None:
    """Start VmHWM anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    main()
