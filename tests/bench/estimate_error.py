"""How far the estimated peak memory is from what trainings take, here on the GPU or the CPU.

Each training has a process of its own. What that has before the model is loaded is taken off the
measured peak, and the estimate's runtime off its total.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from kubetune.api import JsonObject
from kubetune.decide.memory.peak import MIB, memory, sizes_of
from kubetune.decide.settings.effective import effective_settings, training_plan
from kubetune_runner.own_code.axolotl import has_gpu

from .report import Figure

BUDGET_PERCENT = 15.0


def llama(
    hidden: int, inner: int, layers: int, heads: int, vocabulary: int, shared: int = 1
) -> JsonObject:
    """Arguments of LlamaConfig; as many heads share keys and values."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // shared,
        "vocab_size": vocabulary,
        "tie_word_embeddings": shared == 1,
        "max_position_embeddings": 2048,
    }


SIZES = {
    "3M": llama(192, 512, 4, 6, 4096),
    "34M": llama(512, 1376, 8, 8, 16384),
    "111M": llama(768, 2048, 12, 12, 32000),
    "1.1B": llama(2048, 5632, 22, 32, 32000, shared=8),
    "8B": llama(4096, 14336, 32, 32, 128256, shared=4),
}


@dataclass(frozen=True)
class Case:
    """One training."""

    size: str
    method: str
    batch: int
    length: int
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """For the report."""
        again = ", checkpointing" if self.checkpointing else ""
        return f"memory of {self.method} {self.size}, {self.batch} x {self.length}{again}"


CASES = (
    Case("3M", "lora", 16, 128),
    Case("3M", "full", 16, 128),
    Case("34M", "lora", 4, 256),
    Case("34M", "full", 4, 256),
    Case("34M", "lora", 8, 256, checkpointing=True),
    Case("111M", "lora", 2, 256),
    Case("111M", "full", 2, 128),
)
GPU_CASES = (
    Case("111M", "full", 16, 512),
    Case("1.1B", "lora", 4, 1024),
    Case("1.1B", "lora", 16, 1024, checkpointing=True),
    Case("1.1B", "qlora", 4, 1024),
    Case("1.1B", "full", 4, 1024),
    Case("1.1B", "full", 8, 1024, checkpointing=True),
    Case("8B", "lora", 4, 2048, checkpointing=True),
    Case("8B", "qlora", 4, 2048, checkpointing=True),
)


def measure(say: Callable[[str], None]) -> list[Figure]:
    """Train each case and compare."""
    gpu = has_gpu(os.environ)
    figures: list[Figure] = []
    for case in GPU_CASES if gpu else CASES:
        say(case.name)
        settings = effective_settings(
            {
                "method": {"type": case.method},
                "hyperparameters": {
                    "maxSteps": 3,
                    "perDeviceBatchSize": case.batch,
                    "maxLength": 2048,
                    "gradientCheckpointing": case.checkpointing,
                },
                "resources": {"gpu": 1} if gpu else {},
            },
            None,
            None,
            None,
        )
        plan = training_plan(settings, "sft", "bench", durable=False).to_json()
        document = {"sizes": SIZES[case.size], "training": plan, "length": case.length}
        found = _trained(document)
        sizes = sizes_of(found["model"])
        peak = memory(sizes, settings, case.length) if sizes else None
        assert peak
        estimated = (peak.total - peak.runtime) / MIB
        taken = found["peak"] - found["base"]
        note = f"estimated {estimated:,.0f} MiB, taken {taken:,.0f} MiB"
        say(f"  {note}")
        error = 100 * abs(estimated - taken) / taken
        figures.append(Figure(case.name, error, "% off", BUDGET_PERCENT, note))
    return figures


def _trained(document: JsonObject) -> JsonObject:
    command = [sys.executable, "-m", "tests.bench.training_memory", json.dumps(document)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])
