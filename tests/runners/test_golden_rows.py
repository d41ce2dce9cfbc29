"""Token ids, splits, counts and tables are what they have always been, whatever way rows take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden_rows import cases, digest, write_tokenizer
from kubetune_runner.data import stored
from kubetune_runner.tokenized import making, processes
from kubetune_runner.training import objectives
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory

GOLDEN = {
    "texts, truncate": "acfcc7ed42e02fd3",
    "texts, drop": "f3b702219d07af24",
    "by a template": "086c95d749afe56b",
    "by a template of turns": "af81a081eaec0229",
    "a share": "ed1840e9bfe92545",
    "plain texts": "80e018bddf517642",
    "chats": "3e7abbe41ed42637",
    "chats, cut": "bbf356fe27fcd0d9",
    "dpo": "24a166884c150277",
    "reward": "1197c296c20ea7ad",
    "kto": "b7b2d876b395da10",
}
"""Recorded when all rows were held in memory and encoded at once."""
CASES = {name: (rows, over) for name, rows, over in cases()}


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "model"
    write_tokenizer(tiny_model, folder)
    return folder


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_rows_are_what_they_were(
    name: str, count: int, make_plan: PlanFactory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, over = CASES[name]
    # So that rows of a split are in several batches, as many are.
    monkeypatch.setattr(stored, "BATCH_ROWS", 7)
    monkeypatch.setattr(making, "ALONE_BYTES", 0)
    monkeypatch.setattr(processes, "wanted", lambda: count)
    plan = make_plan(rows=rows, held_out=[], model={"directory": str(model)}, **over)
    inputs: Any = prepare(plan)
    table = objectives.load(plan.training.objective).table(inputs.train.rows, plan.training)
    assert digest(inputs, table) == GOLDEN[name]
