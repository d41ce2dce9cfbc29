"""A merged model gives the answers of its adapter on the base, whatever the adapter changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import ModelPlan
from kubetune_runner.errors import RunError
from kubetune_runner.model import merging
from kubetune_runner.results import save_results

from tests.runners import architectures
from tests.runners.conftest import PlanFactory
from tests.runners.fitting import fitted
from tests.runners.test_train_methods import plain_loss

pytestmark = pytest.mark.training

TRAINED: dict[str, dict[str, Any]] = {
    "input layer of tied ones": {"targetModules": ["embed_tokens", "q_proj", "down_proj"]},
    "with magnitudes": {"targetModules": ["embed_tokens", "q_proj"], "useDora": True},
    "rank-stabilised": {"targetModules": ["embed_tokens", "q_proj"], "useRslora": True},
    "input layer, whole": {"modulesToSave": ["embed_tokens"]},
    "norms, whole": {"modulesToSave": ["norm"]},
    "biases": {"bias": "all"},
}
FOREIGN: dict[str, dict[str, Any]] = {
    "output layer of tied ones": {"target_modules": ["lm_head", "q_proj"]},
    "input layer of tied ones": {"target_modules": ["embed_tokens", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both, tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "output layer, whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "input layer, whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "both, whole": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7]},
    "some tokens, with magnitudes": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": [5, 6, 7],
        "use_dora": True,
    },
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_trained_adapter_and_its_merged_model_agree(
    make_plan: PlanFactory, tiny_model: Path, case: str
) -> None:
    """The base shares the weights of its input and output layer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plan = make_plan(training={"lora": TRAINED[case]}).model_copy(update={"merge": True})
    trainer, inputs = fitted(plan)
    rows = [row.input_ids for row in inputs.train.rows]
    saved = save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=False, rows=rows)
    assert saved.merged is not None
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted: Any = PeftModel.from_pretrained(base, saved.result)
    merged: Any = AutoModelForCausalLM.from_pretrained(saved.merged)
    expected = plain_loss(adapted, inputs)
    assert plain_loss(trainer.model, inputs) == pytest.approx(expected, abs=1e-4)
    assert plain_loss(merged, inputs) == pytest.approx(expected, abs=1e-4)


def foreign_adapter(base: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """An adapter as another trainer leaves it, with weights drawn by chance."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", FOREIGN)
def test_an_adapter_of_others_merges_or_is_refused(
    tiny_model: Path, tmp_path: Path, case: str, dtype: str
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = architectures.make(
        "llama", tiny_model, tmp_path / "base", tie_word_embeddings=True, initializer_range=0.1
    )
    number = getattr(torch, dtype)
    AutoModelForCausalLM.from_pretrained(base, dtype=number).save_pretrained(base)
    adapter = foreign_adapter(base, tmp_path / "adapter", FOREIGN[case])
    plan = ModelPlan(name="base", type="base", directory=str(base))
    merging.merge(plan, base, adapter, tmp_path / "merged")
    loaded: Any = AutoModelForCausalLM.from_pretrained(base, dtype=number)
    adapted: Any = PeftModel.from_pretrained(loaded, adapter).eval()
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=number).eval()
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        expected, found = (model(input_ids=ids).logits.float() for model in (adapted, merged))
    tolerance = 1e-3 if dtype == "float32" else 0.1
    assert (expected - found).abs().max() <= tolerance * expected.abs().max()


UNMERGEABLE: dict[str, dict[str, Any]] = {
    "layers that stand twice": {
        "target_modules": ["q_proj"],
        "layer_replication": [[0, 2], [1, 2]],
    },
    "invoked by tokens": {"target_modules": ["q_proj"], "alora_invocation_tokens": [5]},
    "biases of layers without": {"target_modules": ["q_proj"], "lora_bias": True},
}


@pytest.mark.parametrize("case", UNMERGEABLE)
def test_an_adapter_that_no_weights_can_replace_is_refused(
    tiny_model: Path, tmp_path: Path, case: str
) -> None:
    """Once, and with what to do: no other try would help."""
    base = architectures.make("llama", tiny_model, tmp_path / "base")
    adapter = foreign_adapter(base, tmp_path / "adapter", UNMERGEABLE[case])
    plan = ModelPlan(name="base", type="base", directory=str(base))
    with pytest.raises(RunError, match=r"set output\.merge to false") as caught:
        merging.merge(plan, base, adapter, tmp_path / "merged")
    assert (caught.value.reason, caught.value.retryable) == ("MergeFails", False)


def test_layers_that_an_adapter_leaves_alone_stay_one(
    make_plan: PlanFactory, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    plan = make_plan().model_copy(update={"merge": True})
    trainer, inputs = fitted(plan)
    saved = save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    assert saved.merged is not None
    merged: Any = AutoModelForCausalLM.from_pretrained(saved.merged)
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight


def test_a_merged_model_that_differs_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    adapter = foreign_adapter(base, tmp_path / "adapter", FOREIGN["input layer of tied ones"])
    plan = ModelPlan(name="base", type="base", directory=str(base))
    # What peft does by itself changes both layers.
    monkeypatch.setattr(merging, "_untie", lambda model: None)
    with pytest.raises(RunError, match=r"other answers.*set output.merge to false") as caught:
        merging.merge(plan, base, adapter, tmp_path / "merged")
    assert caught.value.reason == "MergeDiffers"
