"""The trainer beside a bare loop and stock trl, and the time until its first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.run.plan import RunPlan
from kubetune.decide.settings.effective import effective_settings, training_plan
from kubetune_runner.own_code.axolotl import has_gpu

from .estimate_error import SIZES
from .report import Figure

Case = tuple[JsonObject, float | None]

SPEED: dict[str, Case] = {
    "3M": ({"batch": 16, "length": 44, "learned": 16, "steps": 40, "rounds": 7}, 1 / 0.95),
    "111M": ({"batch": 4, "length": 110, "learned": 32, "steps": 4, "rounds": 3}, 1.0),
}
"""By size: the case, and what the time over that of a bare loop may be at most."""
GPU_SPEED: dict[str, Case] = {
    "111M": ({"batch": 16, "length": 512, "learned": 128, "steps": 20, "rounds": 3}, None),
    "1.1B": ({"batch": 8, "length": 1024, "learned": 256, "steps": 10, "rounds": 3}, None),
}
"""The same on a GPU; what is reached there is told, without a budget."""
STOCK_BUDGET = 1 / 1.3
LOSS_BUDGET = 1e-4
GPU_LOSS_BUDGET = 1e-2
"""In 16 bits; there sums come in another order each time."""
START_BUDGET = 1.15
START_ROUNDS = 5


def measure(say: Callable[[str], None]) -> list[Figure]:
    """Train with each, and start up."""
    gpu = has_gpu(os.environ)
    tolerance = GPU_LOSS_BUDGET if gpu else LOSS_BUDGET
    figures: list[Figure] = []
    for size, (case, budget) in (GPU_SPEED if gpu else SPEED).items():
        say(f"training {size}")
        found = _printed("training_speed", json.dumps(case | {"sizes": SIZES[size]}))
        taken: dict[str, float] = found["seconds"]
        unit = "s" if gpu else "CPU s"
        note = ", ".join(f"{name} {value:.2f} {unit}" for name, value in taken.items())
        note += f"; {found['tokens'] / taken['runner']:,.0f} tokens/s"
        bare, stock = taken["runner"] / taken["bare"], taken["runner"] / taken["stock"]
        figures += [
            Figure(f"training {size} over a bare loop", bare, "", budget, note),
            Figure(f"training {size} over stock trl", stock, "", None if gpu else STOCK_BUDGET),
            Figure(f"losses of {size} beside stock trl", found["lossDifference"], "", tolerance),
        ]
    if gpu:
        # The floor is an import of libraries, which says nothing of a GPU's start.
        return figures
    say("starting up")
    return [*figures, _start_up()]


def _start_up() -> Figure:
    with tempfile.TemporaryDirectory(prefix="kubetune-bench-") as place:
        plan = _plan(Path(place))
        # Taking turns; the first of each also brings the files into memory.
        pairs = [
            (_printed("start_up"), _printed("start_up", str(plan))) for _ in range(START_ROUNDS)
        ]
    floor, runner = (min(times) for times in zip(*pairs, strict=True))
    note = f"{runner:.1f} CPU s over {floor:.1f} of importing torch, transformers and peft"
    return Figure("start to first step over imports", runner / floor, "", START_BUDGET, note)


def _plan(folder: Path) -> Path:
    """A plan of a few steps on tickets, and its files."""
    for arguments in (
        ("model", str(folder / "model"), "--size", "test", "--steps", "1"),
        ("tickets", str(folder / "tickets.jsonl"), "--rows", "200"),
    ):
        command = [sys.executable, "-m", "kubetune_runner.sample", *arguments]
        subprocess.run(command, check=True, capture_output=True)
    settings = effective_settings(
        {"hyperparameters": {"maxSteps": 3, "maxLength": 128}}, None, None, None
    )
    training = training_plan(settings, "sft", "bench", durable=False).to_json()
    training["checkpoint"]["directory"] = str(folder / "checkpoints")
    plan = {
        "run": {"installId": "i", "runKey": "bench", "namespace": "n", "name": "n", "uid": "u"},
        "model": {"name": "small", "type": "base", "directory": str(folder / "model")},
        "dataset": {
            "name": "tickets",
            "files": {"directory": str(folder), "glob": "*.jsonl", "format": "jsonl"},
            "format": "promptCompletion",
            "columns": {},
            "splits": {},
        },
        "training": training,
        "tracking": {"uri": "http://127.0.0.1:9", "experiment": "bench"},
        "lineageDigest": "sha256:0",
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(RunPlan.model_validate(plan).to_json()), encoding="utf-8")
    return path


def _printed(module: str, *arguments: str) -> Any:
    """What a module prints last, as JSON."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])
