"""What an objective asks of the job's inputs and settings; each answer is a sentence or empty."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.status_types import ModelStatusDict
from kubetune.api.rows import FORMAT_ROLES, DatasetFormat
from kubetune.api.schema.suggestions import listed
from kubetune.api.training.objectives import OBJECTIVES, Objective
from kubetune.api.training.trl_names import GOES_WITH
from kubetune.decide.resources import DatasetResource

SCORING = "ForSequenceClassification"
"""The end of the architecture's name of a model that gives a text a number."""


def format_problem(objective: Objective, dataset: DatasetResource) -> str:
    """Why the objective can't learn from the Dataset's rows."""
    spec = dataset.spec
    formats = OBJECTIVES[objective].formats
    if spec is None or spec.format in formats:
        return ""
    shown = listed(column["name"] for column in dataset.status.get("columns") or ())
    others = [name for name, facts in OBJECTIVES.items() if spec.format in facts.formats]
    way_out = f"use objective {' or '.join(others)}, or a Dataset of format {_asked(formats)}"
    if objective == "sft" and spec.format in ("preference", "unpairedPreference"):
        taken = "chosen" if spec.format == "preference" else "completion"
        way_out += f", or name a PromptTemplate in spec.promptRef that makes text of the {taken}"
        way_out += " column"
    return (
        f"objective {objective} can't learn from Dataset {dataset.name}, which has format"
        f" {spec.format} and the columns {shown}: {way_out}"
    )


def columns_problem(dataset: DatasetResource, *, with_template: bool) -> str:
    """Which column of its format the Dataset lacks."""
    spec = dataset.spec
    if spec is None or dataset.status.get("columnsTruncated"):
        return ""
    columns = {column["name"] for column in dataset.status.get("columns") or ()}
    mapping = spec.columns or ColumnMapping()
    for role in FORMAT_ROLES[spec.format]:
        if mapping.of(role, columns) not in columns:
            hint = ", or name a PromptTemplate in spec.promptRef" if with_template else ""
            return (
                f"Dataset {dataset.name} has format {spec.format} but no column"
                f" {mapping.of(role)!r}; its columns are {listed(sorted(columns))}:"
                f" map it in spec.columns.{role} of the Dataset{hint}"
            )
    return ""


def rows_problem(dataset: DatasetResource, *, with_template: bool) -> str:
    """Why nothing would be left to train on, as the inspection has counted."""
    checks = dataset.status.get("checks")
    if checks is None or checks.get("trainableRows") != 0:
        return ""
    problems = dataset.status.get("problems") or ()
    named = ((problem.get("row"), problem["message"]) for problem in problems)
    where = next((f", such as row {row}: {why}" for row, why in named if row), "")
    hint = ", or name a PromptTemplate in spec.promptRef" if with_template else ""
    return (
        f"none of the rows of Dataset {dataset.name} that train can be used{where}; correct the"
        f" rows or spec.columns of the Dataset{hint}"
    )


def model_problem(objective: Objective, name: str, status: ModelStatusDict) -> str:
    """Why the objective can't start from the model."""
    architecture = status.get("architecture") or ""
    if architecture.endswith(SCORING) and objective != "reward":
        return (
            f"Model {name} scores texts and generates none ({architecture}), so"
            f" objective {objective} can't train it: name a language model in spec.modelRef"
        )
    return ""


def settings_problem(objective: Objective, settings: JsonObject) -> str:
    """Which of the settings in force contradict each other with this objective."""
    own = settings.get(objective) or {}
    lora = settings["method"].get("lora") or {}
    if OBJECTIVES[objective].reference and lora.get("bias", "none") != "none":
        return (
            f"method.lora.bias {lora['bias']} trains weights of the untrained model, which"
            f" objective {objective} compares with: set it to none"
        )
    if objective == "dpo":
        return _dpo_problem(own)
    if (
        objective == "kto"
        and own["lossType"] == "kto"
        and settings["hyperparameters"]["perDeviceBatchSize"] == 1
    ):
        return (
            "hyperparameters.perDeviceBatchSize is 1, but loss kto compares the rows of a batch:"
            " set it to 2 or more, or kto.lossType to apo_zero_unpaired"
        )
    return ""


def own_settings(objective: Objective, settings: JsonObject) -> JsonObject:
    """The settings with those of the objective complete and those of the others left out.

    A profile serves jobs of several objectives; a job that has settings of another is refused
    before.
    """
    facts = OBJECTIVES[objective]
    kept = {key: value for key, value in settings.items() if key not in OBJECTIVES}
    if facts.settings is not None:
        kept[objective] = {**facts.settings, **(settings.get(objective) or {})}
    if not facts.packs:
        kept["hyperparameters"] = kept["hyperparameters"] | {"packing": False}
    unused = {
        *(() if facts.generates else ("maxRows",)),
        *(("maxNewTokens",) if facts.scores else ()),
    }
    evaluation = {key: value for key, value in kept["evaluation"].items() if key not in unused}
    if facts.reference:
        evaluation["baseline"] = False
    kept["evaluation"] = evaluation
    trl = (kept.get("trainer") or {}).get("trl") or {}
    if arguments := trl.get("arguments"):
        taken = {
            name: value
            for name, value in arguments.items()
            if objective in GOES_WITH.get(name, (objective,))
        }
        kept["trainer"] = kept["trainer"] | {"trl": trl | {"arguments": taken}}
    return kept


def _dpo_problem(own: JsonObject) -> str:
    losses, weights = own["lossType"], own.get("lossWeights")
    if weights is not None and len(weights) != len(losses):
        return (
            f"dpo.lossWeights has {len(weights)} items and dpo.lossType {len(losses)}"
            f" ({', '.join(losses)}): give each loss a weight"
        )
    if "exo_pair" in losses and not own["labelSmoothing"]:
        return "dpo.lossType exo_pair needs dpo.labelSmoothing above 0: set it, such as to 0.001"
    return ""


def _asked(formats: tuple[DatasetFormat, ...]) -> str:
    return " or ".join(f"{name} (columns {', '.join(FORMAT_ROLES[name])})" for name in formats)
