"""Every causal architecture that transformers knows, through everything that a run does with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runners.matrix import cells, record

pytestmark = pytest.mark.training

SAMPLE = (
    "llama",
    # Experts, and a router that isn't to be adapted.
    "llama4_text",
    # What the output layer does besides.
    "gemma2",
    # Layers without attention.
    "mamba",
    # Layers that are no nn.Linear.
    "gpt2",
    # Its weights have other names in files, and its embeddings a norm within.
    "inkling2_loop_text",
    # It sees what follows a token.
    "bert",
    # It fills gaps.
    "xlm",
)
"""Of as many kinds as there are."""

CELLS = (
    # Weights of its adapter have other names in files than in memory.
    ("laguna", "LoRA"),
    # Its output layer trains a scale, to which trl's head gives no gradient.
    ("dory", "full"),
    # Its forward fails with quantized weights, once it is measured.
    ("rwkv", "QLoRA"),
    # Its linear layers have a forward of their own that changes nothing.
    ("falcon", "LoRA"),
    # It is a part of a model for pictures, of a type that no model has by itself.
    ("mllama", "full"),
)
"""Single cells of architectures that do something of their own."""


def every() -> list[object]:
    """The sample, and all others in the long form."""
    others = [kind for kind in cells.architectures() if kind not in SAMPLE]
    return [*SAMPLE, *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in others)]


@pytest.mark.parametrize("kind", every())
def test_an_architecture_is_what_the_documentation_says(kind: str, tmp_path: Path) -> None:
    found = cells.examine(kind, tmp_path)
    defects = {name: cell.why for name, cell in found.items() if cell.verdict == cells.DEFECT}
    assert not defects
    if known := record.read().get(kind):
        verdicts = {name: cell.verdict for name, cell in found.items()}
        assert verdicts == {name: cell.verdict for name, cell in known.items()}, found


@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_a_cell_is_what_the_documentation_says(kind: str, method: str, tmp_path: Path) -> None:
    found = cells.examine(kind, tmp_path, {method: cells.METHODS[method]})[method]
    assert found.verdict == record.read()[kind][method].verdict != cells.DEFECT, found.why


def test_the_record_is_of_this_transformers() -> None:
    import transformers

    assert set(record.read()) <= set(cells.architectures())
    assert record.version() == transformers.__version__
