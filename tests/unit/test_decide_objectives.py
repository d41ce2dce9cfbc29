"""Objectives: one table for all, and settings that a profile brings for other ones."""

from pathlib import Path
from typing import Any

import kubetune_runner
import pytest
from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.rows import FORMAT_ROLES
from kubetune.api.training.objective_settings import WITH_SETTINGS
from kubetune.api.training.objectives import OBJECTIVES
from kubetune.api.training.trl_names import GOES_WITH
from kubetune.decide.settings.effective import effective_settings
from pydantic import ValidationError

PROFILE: dict[str, Any] = {
    "dpo": {"beta": 0.2, "lossType": ["ipo"]},
    "kto": {"beta": 0.3},
    "reward": {"centerRewardsCoefficient": 0.1},
    "hyperparameters": {"packing": True},
    "evaluation": {"maxRows": 5, "maxNewTokens": 9, "baseline": True},
    "trainer": {"trl": {"arguments": {"adam_beta2": 0.9, "ld_alpha": 0.5, "eval_packing": True}}},
}


def test_each_objective_has_one_module_in_the_runner() -> None:
    modules = Path(kubetune_runner.__file__).parent / "training" / "objectives"
    assert {path.stem for path in modules.glob("[a-z]*.py")} - {"base"} == set(OBJECTIVES)


def test_the_table_is_whole() -> None:
    assert {name for name, facts in OBJECTIVES.items() if facts.settings is not None} == set(
        WITH_SETTINGS
    )
    assert {each for facts in OBJECTIVES.values() for each in facts.formats} == set(FORMAT_ROLES)
    assert {name for names in GOES_WITH.values() for name in names} <= set(OBJECTIVES)


@pytest.mark.parametrize(
    ("objective", "expected", "arguments"),
    [
        ("sft", {}, {"adam_beta2": 0.9, "eval_packing": True}),
        (
            "dpo",
            {"dpo": {"beta": 0.2, "lossType": ["ipo"], "labelSmoothing": 0.0}},
            {"adam_beta2": 0.9, "ld_alpha": 0.5},
        ),
        (
            "kto",
            {
                "kto": {
                    "beta": 0.3,
                    "lossType": "kto",
                    "desirableWeight": 1.0,
                    "undesirableWeight": 1.0,
                }
            },
            {"adam_beta2": 0.9},
        ),
        ("reward", {"reward": {"centerRewardsCoefficient": 0.1}}, {"adam_beta2": 0.9}),
    ],
)
def test_a_profile_serves_all_objectives(
    objective: str, expected: dict[str, Any], arguments: dict[str, Any]
) -> None:
    settings = effective_settings({"objective": objective}, PROFILE, None, None)
    assert {name: settings[name] for name in OBJECTIVES if name in settings} == expected
    assert settings["trainer"]["trl"]["arguments"] == arguments
    assert settings["hyperparameters"]["packing"] == (objective == "sft")
    evaluation = {
        "sft": {"maxLossRows": 2000, "maxRows": 5, "maxNewTokens": 9, "baseline": True},
        "dpo": {"maxLossRows": 2000, "maxNewTokens": 9, "baseline": False},
        "kto": {"maxLossRows": 2000, "maxNewTokens": 9, "baseline": False},
        "reward": {"maxLossRows": 2000, "baseline": True},
    }
    assert settings["evaluation"] == evaluation[objective]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"dpo": {}}, "dpo settings go with objective dpo"),
        ({"objective": "kto", "reward": {}}, "reward settings go with objective reward"),
        ({"objective": "dpo", "promptRef": {"name": "p"}}, "remove promptRef"),
        ({"objective": "dpo", "hyperparameters": {"packing": True}}, "packing goes with"),
        ({"objective": "reward", "evaluation": {"maxRows": 0}}, "maxRows goes with"),
        ({"objective": "reward", "evaluation": {"maxNewTokens": 4}}, "generates nothing"),
        ({"objective": "kto", "evaluation": {"baseline": True}}, "measure against"),
        (
            {"objective": "kto", "trainer": {"trl": {"arguments": {"ld_alpha": 0.5}}}},
            "trainer.trl.arguments.ld_alpha goes with objective dpo; remove it",
        ),
        (
            {"objective": "dpo", "trainer": {"trl": {"arguments": {"loss_type": "nll"}}}},
            "trainer.trl.arguments.loss_type goes with objective sft; remove it",
        ),
    ],
)
def test_what_the_objective_has_no_use_for_is_refused(spec: dict[str, Any], message: str) -> None:
    references = {"modelRef": {"name": "m"}, "datasetRef": {"name": "d"}}
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(references | spec)
    assert message in str(caught.value)


def test_columns_by_role() -> None:
    assert ColumnMapping().of("label") == "label"
    assert ColumnMapping.model_validate({"label": "good"}).of("label") == "good"
    assert ColumnMapping.model_validate({"chosen": "a"}).of("chosen") == "a"
