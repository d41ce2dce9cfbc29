"""trainer.trl.arguments: which names and types are taken, and what a refusal says."""

from typing import Any

import pytest
from kubetune.api.schema.errors import problems
from kubetune.api.training.settings import TrlTrainer
from kubetune.api.training.trl_arguments import TrainerArguments
from pydantic import ValidationError

UNSAFE = (
    "output_dir",
    "report_to",
    "push_to_hub",
    "hub_token",
    "hub_model_id",
    "trust_remote_code",
    "deepspeed",
    "fsdp_config",
    "resume_from_checkpoint",
    "model_init_kwargs",
    "run_name",
    "remove_unused_columns",
    "chat_template_path",
)


def refusals(arguments: dict[str, Any]) -> list[str]:
    try:
        TrlTrainer.model_validate({"arguments": arguments})
    except ValidationError as error:
        return [str(problem) for problem in problems(error, TrlTrainer)]
    return []


@pytest.mark.parametrize(
    "arguments",
    [
        {"adam_beta2": 0.95, "optim": "adamw_torch", "dataloader_num_workers": 2},
        {"lr_scheduler_kwargs": {"num_cycles": 2}, "neftune_noise_alpha": 5},
        {"assistant_only_loss": True, "optim_target_modules": ["q_proj"]},
    ],
)
def test_accepted_and_kept_under_trls_names(arguments: dict[str, Any]) -> None:
    trainer = TrlTrainer.model_validate({"arguments": arguments})
    assert trainer.to_json() == {"arguments": arguments}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 1e-3}, "arguments.learning_rate: not a free argument: use spec.hyper"),
        ({"adam_beta3": 1}, "arguments.adam_beta3: unknown field; did you mean adam_beta2?"),
        ({"adam_beta1": "high"}, 'arguments.adam_beta1: must be a number, not "high"'),
        ({"optim": "adamw_tosch"}, "arguments.optim: must be 'adamw_torch'"),
        ({"dataloader_num_workers": True}, "must be an integer, not true"),
    ],
)
def test_refused_with_the_way_out(arguments: dict[str, Any], message: str) -> None:
    assert any(message in refusal for refusal in refusals(arguments)), refusals(arguments)


@pytest.mark.parametrize("name", UNSAFE)
def test_what_reaches_outside_the_run_is_owned(name: str) -> None:
    assert name in TrainerArguments.owned
    assert name in TrainerArguments.model_fields


def test_every_typed_hyperparameter_that_an_argument_names_exists() -> None:
    from kubetune.api.training.settings import Checkpoint, Hyperparameters

    for model, prefix in (
        (Hyperparameters, "use spec.hyperparameters."),
        (Checkpoint, "use spec.checkpoint."),
    ):
        fields = {field.alias for field in model.model_fields.values()}
        named = {
            instead.removeprefix(prefix)
            for instead in TrainerArguments.owned.values()
            if instead.startswith(prefix)
        }
        assert named <= fields
        assert named
