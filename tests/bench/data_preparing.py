"""Prepares rows once and measures it: ``-m tests.bench.data_preparing <what> <folder> <file>``.

``what`` is model (makes one), runner, bare (the ``datasets`` library alone) or inspect.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

LENGTH = 2048
HELD_OUT = 0.01


def main(what: str, folder: Path, file: Path) -> None:
    """Print seconds of wall and CPU, and the peak of memory in MB, of it and of its processes."""
    if what == "model":
        from kubetune_runner.sample.model import RECIPES, make_model

        make_model(folder / "model", RECIPES["test"], lambda *_: None)
        print(json.dumps({}))
        return
    prepared = {"runner": runner, "bare": bare, "inspect": inspect}[what](folder, file)
    began, cpu = time.perf_counter(), _cpu()
    prepared()
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "wall": time.perf_counter() - began,
        "cpu": _cpu() - cpu,
        "peak": own.ru_maxrss / 1024,
        "child": children.ru_maxrss / 1024,
    }
    print(json.dumps(found))


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _dataset(file: Path) -> dict[str, Any]:
    return {
        "name": "rows",
        "files": {"directory": str(file.parent), "glob": file.name, "format": "jsonl"},
        "format": "promptCompletion",
        "columns": {},
        "splits": {"evaluationFraction": HELD_OUT},
    }


def inspect(_folder: Path, file: Path) -> Any:
    """As a Dataset is inspected."""
    from kubetune.api.run.plan import DatasetPlan
    from kubetune_runner.inspection.dataset import inspect_dataset

    plan = DatasetPlan.model_validate(_dataset(file))

    def prepared() -> None:
        found = inspect_dataset(plan, None, None, None, {})
        digests = {"digest": found.digest, "splitDigest": found.split_digest}
        file.with_suffix(".digests").write_text(json.dumps(digests))

    return prepared


def runner(folder: Path, file: Path) -> Any:
    """As a training does, with the digests of an inspection where there was one."""
    from kubetune.api.run.plan import RunPlan
    from kubetune_runner.model import loading
    from kubetune_runner.tokenized import processes, tokenize

    dataset = _dataset(file)
    digests = file.with_suffix(".digests")
    if digests.is_file():
        dataset |= json.loads(digests.read_text())
    plan = RunPlan.model_validate(_plan(folder, dataset))

    @cache
    def tokenizer() -> Any:
        return loading.load_tokenizer(plan.model, folder / "model")

    if processes.wanted() == 1:
        # The library has its imports behind it, too.
        tokenizer()
    return lambda: tokenize(plan, None, folder / "model", tokenizer)


def bare(folder: Path, file: Path) -> Any:
    """The ``datasets`` library, with a tokenizer that calls as seldom as it can."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "model")

    def encode(batch: Any) -> Any:
        texts = [a + b for a, b in zip(batch["prompt"], batch["completion"], strict=True)]
        prompts, wholes = tokenizer(batch["prompt"])["input_ids"], tokenizer(texts)["input_ids"]
        ids = [[*whole, tokenizer.eos_token_id][:LENGTH] for whole in wholes]
        labels = [
            ([-100] * len(prompt) + row[len(prompt) :])[:LENGTH]
            for prompt, row in zip(prompts, ids, strict=True)
        ]
        return {"input_ids": ids, "labels": labels}

    def prepared() -> None:
        rows: Any = load_dataset(
            "json", data_files=str(file), split="train", cache_dir=str(folder / "bare")
        )
        rows.map(encode, batched=True, remove_columns=rows.column_names)

    return prepared


def _plan(folder: Path, dataset: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": {"installId": "i", "runKey": "k", "namespace": "ns", "name": "job", "uid": "u"}
        | {"reportKey": "what the run vouches with"},
        "model": {"name": "tiny", "type": "base", "directory": str(folder / "model")},
        "dataset": dataset,
        "training": {
            "objective": "sft",
            "method": "full",
            "hyperparameters": {
                "maxSteps": 1,
                "learningRate": 0.01,
                "perDeviceBatchSize": 4,
                "gradientAccumulationSteps": 1,
                "maxLength": LENGTH,
                "packing": False,
                "scheduler": "linear",
                "warmup": 0.0,
                "weightDecay": 0.0,
                "maxGradNorm": 1.0,
                "precision": "auto",
                "loggingSteps": 1,
                "seed": 42,
            },
            "dataFraction": 1.0,
            "dataSeed": 42,
            "evaluation": {"maxRows": 4, "maxNewTokens": 8, "baseline": False},
            "checkpoint": {"everySteps": 4, "keep": 2, "directory": str(folder / "checkpoints")},
        },
        "tracking": {"uri": "http://127.0.0.1:9", "experiment": "tests"},
        "lineageDigest": "sha256:0",
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
