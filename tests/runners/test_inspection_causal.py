"""A model that can't learn to say the next token is refused by what its configuration says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kubetune_runner.inspection import causal, run

from tests.runners.inspection_fixtures import adapter_files, inspection_plan, model_files, write
from tests.runners.matrix import record


def inspected(folder: Path, **config: Any) -> Any:
    """The outcome for a model of another type; its weights aren't there to be read."""
    files = model_files()
    document = json.loads(files["config.json"]) | config
    del files["model.safetensors"]
    write(folder, files | {"config.json": json.dumps(document).encode()})
    return run(inspection_plan("inspectModel", model={"name": "m", "directory": str(folder)}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5", "architectures": ["T5Model"]}, "of type t5.*no model.*T5Model"),
        ({"model_type": "clip"}, "of type clip.*no model that continues a text"),
        ({"model_type": "bert"}, "of type bert.*set is_decoder"),
        ({"model_type": "xlnet", "is_decoder": True}, "of type xlnet"),
    ],
)
def test_what_says_no_next_token_is_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    outcome = inspected(tmp_path, **config)
    assert (outcome.status, outcome.reason) == ("failed", "ModelNotCausal")
    assert not outcome.retryable
    assert re.search(words, outcome.message), outcome.message


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "of-tomorrow", "auto_map": {"AutoModelForCausalLM": "its.Own"}},
        {"model_type": None},
    ],
)
def test_others_are_looked_at_further(tmp_path: Path, config: dict[str, Any]) -> None:
    assert inspected(tmp_path, **config).reason == "ModelFilesMissing"


def test_an_adapter_on_such_a_base_is_refused(tmp_path: Path) -> None:
    files = model_files()
    config = json.loads(files["config.json"]) | {"model_type": "bert"}
    write(tmp_path / "base", files | {"config.json": json.dumps(config).encode()})
    write(tmp_path / "adapter", adapter_files())
    base = {"name": "base", "type": "base", "directory": str(tmp_path / "base")}
    model = {"name": "m", "directory": str(tmp_path / "adapter"), "base": base}
    assert run(inspection_plan("inspectModel", model=model)).reason == "ModelNotCausal"


def test_the_types_are_those_that_a_run_would_refuse() -> None:
    """As each of transformers' architectures was measured."""
    found = {
        kind
        for kind, row in record.read().items()
        if any("ModelNotCausal" in cell.why for cell in row.values())
    }
    assert found == causal.SEE_AHEAD | causal.NEVER_CAUSAL
    assert set(record.read()) <= causal._known()
