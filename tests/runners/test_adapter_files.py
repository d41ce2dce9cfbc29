"""What an adapter's files give back is what was trained, or the run is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import ModelPlan, RunPlan
from kubetune.api.training.settings import merge as laid
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import candidate
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.model import adapter_files, loading, merging
from kubetune_runner.results import save_results
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import make_trainer
from kubetune_runner.training.inputs import prepare

from tests.runners.matrix import cells

pytestmark = pytest.mark.training

RENAMED = "laguna"
"""Its files have other names for some modules than it has in memory."""
UNREADABLE = "inkling2_text"
"""It has a module of which peft takes each name for that of a weight."""

Make = Callable[..., RunPlan]


@pytest.fixture
def planned(tmp_path: Path) -> Make:
    """Builds a plan for an architecture."""

    def build(kind: str, training: dict[str, Any] | None = None) -> RunPlan:
        base = cells.make(kind, tmp_path / "base")
        (tmp_path / "work").mkdir()
        plan = cells.plan_of("LoRA", base, tmp_path / "work")
        document = laid(plan.to_json(), {"training": training or {}, "merge": False})
        return RunPlan.model_validate(document)

    return build


def begun(plan: RunPlan) -> tuple[Any, Any]:
    """Trainer and inputs before the first step."""
    inputs = prepare(plan)
    return make_trainer(plan, inputs, StopSignal(), Tracker(plan))[0], inputs


def changed(model: Any) -> dict[str, Any]:
    """As after a training: none of the trained weights is what it was."""
    import torch

    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for weight in trained.values():
            weight += 0.1 * torch.randn_like(weight)
    return {name: weight.detach().clone() for name, weight in trained.items()}


@pytest.mark.parametrize("over", [{}, {"lora": {"useDora": True}}], ids=["LoRA", "DoRA"])
def test_peft_alone_reads_what_was_trained(planned: Make, over: dict[str, Any]) -> None:
    import torch
    from peft import PeftModel

    plan = planned(RENAMED, over)
    trainer, inputs = begun(plan)
    trained = changed(trainer.model)
    saved = save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    base = cells.stock(Path(plan.model.directory or ""))
    read = dict(PeftModel.from_pretrained(base, saved.result).named_parameters())
    assert any("shared_experts" in name for name in trained)
    assert [n for n, weight in trained.items() if not torch.equal(weight, read[n])] == []


def test_a_checkpoint_gives_back_what_was_trained(planned: Make, tmp_path: Path) -> None:
    import torch

    trainer, _ = begun(planned(RENAMED))
    trained = changed(trainer.model)
    trainer.save_model(str(tmp_path / "checkpoint-1"))
    changed(trainer.model)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    read = dict(trainer.model.named_parameters())
    assert [n for n, weight in trained.items() if not torch.equal(weight, read[n])] == []


def test_modules_that_peft_cannot_read_again_are_refused(planned: Make) -> None:
    plan = planned(UNREADABLE, {"lora": {"targetModules": ["weight_proj"]}})
    with pytest.raises(RunError, match=r"sconv\.weight_proj.*targetModules to modules") as caught:
        begun(plan)
    assert caught.value.reason == "AdapterUnreadable"
    assert not caught.value.retryable


def test_all_linear_leaves_out_what_peft_cannot_read_again(planned: Make) -> None:
    trainer, _ = begun(planned(UNREADABLE))
    trained = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert trained
    assert not any("weight_proj" in name for name in trained)


def test_what_was_written_otherwise_than_trained_is_refused(planned: Make) -> None:
    plan = planned("llama")
    trainer, inputs = begun(plan)
    save = trainer.model.save_pretrained

    def losing(folder: Path, **options: Any) -> None:
        save(folder, **options)
        from safetensors.torch import load_file, save_file

        path = folder / adapter_files.WEIGHTS
        save_file({n: w for n, w in load_file(path).items() if "down_proj" not in n}, path)

    trainer.model.save_pretrained = losing
    with pytest.raises(RunError, match=r"mlp\.down_proj") as caught:
        save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    assert caught.value.reason == "AdapterUnreadable"


def test_an_adapter_that_is_read_in_part_is_refused(planned: Make, tmp_path: Path) -> None:
    """As peft writes it, the adapter of some architectures can't be read again."""
    import torch
    from peft import LoraConfig, get_peft_model

    plan = planned(RENAMED)
    folder, adapter = Path(plan.model.directory or ""), tmp_path / "adapter"
    config = LoraConfig(r=4, target_modules=["up_proj"], task_type="CAUSAL_LM")
    get_peft_model(cells.stock(folder), config).save_pretrained(str(adapter))
    base = ModelPlan(name="base", type="base", directory=str(folder))
    for use in (
        lambda: merging.merge(base, folder, adapter, tmp_path / "merged"),
        lambda: merging.with_adapter(loading.load_model(base, folder, torch.float32), adapter),
        lambda: candidate.load(candidate.Candidate(base, folder, adapter, None, None), "auto"),
    ):
        with pytest.raises(RunError, match=r"no weights.*shared_experts"):
            use()
