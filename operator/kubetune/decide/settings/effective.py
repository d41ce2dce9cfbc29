"""Settings in force: built-in < family < profile < job, resolved once, frozen in the plan."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.dataset.spec import DEFAULT_LOSS_ROWS
from kubetune.api.kinds.status_types import ModelStatusDict
from kubetune.api.run.plan import CHECKPOINT_DIRECTORY, WORK_DIRECTORY
from kubetune.api.run.training_plan import (
    CheckpointPlan,
    EvaluationPlan,
    HyperparametersPlan,
    LoraPlan,
    TokenizerPlan,
    TrainingPlan,
)
from kubetune.api.training.automatic import AUTO
from kubetune.api.training.chat_templates import MODEL, chat_template_text
from kubetune.api.training.families import family_settings
from kubetune.api.training.method import EIGHT_BITS
from kubetune.api.training.objectives import OBJECTIVES, Objective
from kubetune.api.training.settings import Resources, TrainingSettings, merge
from kubetune.decide.settings.objectives import own_settings
from kubetune.decide.settings.workers import processes_of, world_size

SETTINGS_FIELDS = tuple(
    field.alias or name for name, field in TrainingSettings.model_fields.items()
)

BUILT_IN: JsonObject = {
    "method": {"type": "lora"},
    "data": {"fraction": 1.0, "seed": 42, "longRows": "truncate"},
    "hyperparameters": {
        "perDeviceBatchSize": 8,
        "gradientAccumulationSteps": 1,
        "packing": False,
        "scheduler": "linear",
        "warmup": 0.03,
        "weightDecay": 0.0,
        "maxGradNorm": 1.0,
        "precision": "auto",
        "loggingSteps": 10,
        "seed": 42,
    },
    "evaluation": {
        "maxRows": 128,
        "maxLossRows": DEFAULT_LOSS_ROWS,
        "maxNewTokens": 64,
        "baseline": False,
    },
    "checkpoint": {"everySteps": 100, "keep": 2},
    "resources": {"cpu": "1", "memory": "4Gi", "gpu": 0},
    "workers": 1,
    "strategy": "ddp",
    "estimate": {"whenTooLarge": "Warn"},
    "backoffLimit": 3,
    "onOutOfMemory": "Retry",
}
DEFAULT_EPOCHS = 3.0
DEFAULT_MAX_LENGTH = 1024
DEFAULT_RANK = 16


def effective_settings(
    job: JsonObject,
    profile: JsonObject | None,
    target_resources: JsonObject | None,
    context_length: int | None,
    adapter: JsonObject | None = None,
    model: ModelStatusDict | None = None,
    *,
    chat: bool = False,
) -> JsonObject:
    """All settings of a job as one JSON value, nothing left open but what the device decides.

    ``job`` and ``profile`` are specs as JSON; ``target_resources`` are the target's defaults;
    ``adapter`` is method.lora of an adapter that continues training; ``model`` is the status of the
    Model; ``chat`` tells that rows may be chats.
    """
    facts_of_model: ModelStatusDict = model or {}
    settings = merge(BUILT_IN, family_settings(facts_of_model.get("modelType")))
    settings = merge(settings, _tokenizer_of(facts_of_model))
    if target_resources:
        settings = merge(settings, {"resources": target_resources})
    for layer in (profile or {}, job):
        settings = _apply_layer(
            settings, {key: layer[key] for key in SETTINGS_FIELDS if key in layer}
        )
    objective: Objective = job.get("objective", "sft")
    facts = OBJECTIVES[objective]
    method = settings["method"]["type"]
    numbers = settings["hyperparameters"]
    if "epochs" not in numbers and "maxSteps" not in numbers:
        numbers = numbers | {"epochs": DEFAULT_EPOCHS}
    numbers = {
        "learningRate": facts.full_rate if method == "full" else facts.adapter_rate,
        "maxLength": min(DEFAULT_MAX_LENGTH, context_length or DEFAULT_MAX_LENGTH),
    } | numbers
    settings["hyperparameters"] = numbers
    layers = (target_resources, *(layer.get("resources") for layer in (profile or {}, job)))
    if not any("cpu" in (layer or {}) for layer in layers):
        cpus = str(processes_of(settings["resources"]))
        settings["resources"] = settings["resources"] | {"cpu": cpus}
    if world_size(settings) == 1:
        del settings["strategy"]
    if not chat:
        del settings["tokenizer"]["chatTemplate"]
    if not settings["tokenizer"]:
        del settings["tokenizer"]
    # Settings that a profile brings for another method have no meaning here.
    given = settings["method"]
    settings["method"] = {"type": method}
    if method == "full" and given.get("full"):
        settings["method"]["full"] = given["full"]
    if method != "full":
        settings["method"]["lora"] = adapter or _adapter(given.get("lora") or {})
    if method == "qlora":
        settings["method"]["quantization"] = _quantization(given.get("quantization") or {})
    return own_settings(objective, settings)


def batch_below_auto(job: JsonObject, profile: JsonObject | None) -> int:
    """The batch that ``perDeviceBatchSize: auto`` stands for: the profile's number, or 8."""
    for layer in (job, profile or {}):
        given = (layer.get("hyperparameters") or {}).get("perDeviceBatchSize", AUTO)
        if given != AUTO:
            return int(given)
    return BUILT_IN["hyperparameters"]["perDeviceBatchSize"]


def training_plan(
    settings: JsonObject,
    objective: Objective,
    run_key: str,
    *,
    durable: bool,
    other: JsonObject | None = None,
) -> TrainingPlan:
    """The plan's part that changes the result, from effective settings.

    ``durable`` tells that attempts find the checkpoints of earlier ones; ``other`` is the part
    of a trainer other than trl's, as ``own_code.in_plan`` gives it.
    """
    checkpoint = settings["checkpoint"]
    root = CHECKPOINT_DIRECTORY if durable else f"{WORK_DIRECTORY}/checkpoints"
    lora = settings["method"].get("lora")
    tokenizer = settings.get("tokenizer") or {}
    quantization = settings["method"].get("quantization")
    return TrainingPlan.model_validate(
        {
            "objective": objective,
            **({objective: settings[objective]} if objective in settings else {}),
            "method": settings["method"]["type"],
            **({"lora": LoraPlan.model_validate(lora).to_json()} if lora else {}),
            **({"quantization": quantization} if quantization else {}),
            **({"weights": "bf16"} if in_bf16(settings["method"]) else {}),
            **({"continueFrom": settings["continueFrom"]} if "continueFrom" in settings else {}),
            "hyperparameters": HyperparametersPlan.model_validate(
                settings["hyperparameters"]
            ).to_json(),
            **({"tokenizer": _tokenizer_plan(tokenizer)} if tokenizer else {}),
            "arguments": ((settings.get("trainer") or {}).get("trl") or {}).get("arguments") or {},
            **(other or {}),
            "dataFraction": settings["data"]["fraction"],
            "dataSeed": settings["data"]["seed"],
            "longRows": settings["data"]["longRows"],
            "evaluation": EvaluationPlan.model_validate(settings["evaluation"]).to_json(),
            "checkpoint": CheckpointPlan(
                every_steps=checkpoint["everySteps"],
                every_minutes=checkpoint.get("everyMinutes"),
                keep=checkpoint["keep"],
                directory=f"{root}/{run_key}",
            ).to_json(),
            "progressDeadlineSeconds": settings.get("progressDeadlineSeconds"),
        }
    )


def in_bf16(method: JsonObject) -> bool:
    """Whether weights that all train are of 16 bits."""
    return (method.get("full") or {}).get("weights") == "bf16"


def effective_resources(settings: JsonObject) -> Resources:
    """The resources in force."""
    return Resources.model_validate(settings["resources"])


def _tokenizer_of(model: ModelStatusDict) -> JsonObject:
    """What the model's own tokenizer has, which goes before what its family would need."""
    found: JsonObject = {}
    if "padToken" in model:
        found["padToken"] = model["padToken"]
    if model.get("chatTemplate") is not False:
        found["chatTemplate"] = MODEL
    return {"tokenizer": found}


def _tokenizer_plan(given: JsonObject) -> JsonObject:
    template = chat_template_text(given.get("chatTemplate") or MODEL)
    return TokenizerPlan(pad_token=given.get("padToken"), chat_template=template).to_json()


def _adapter(given: JsonObject) -> JsonObject:
    rank = given.get("rank", DEFAULT_RANK)
    return {
        "rank": rank,
        "alpha": 2 * rank,
        "dropout": 0.0,
        "targetModules": ["all-linear"],
        "bias": "none",
        "useRslora": False,
        "useDora": False,
        "modulesToSave": [],
    } | given


def _quantization(given: JsonObject) -> JsonObject:
    if given.get("bits") == EIGHT_BITS:
        # The rest, from a layer below, is about 4 bits.
        return {"bits": EIGHT_BITS}
    return {"bits": 4, "type": "nf4", "doubleQuantization": True} | given


def _apply_layer(settings: JsonObject, layer: JsonObject) -> JsonObject:
    """A layer on the settings below; epochs and maxSteps replace each other.

    Who sets up an adapter wants one, whatever the layers below say; the same holds for
    quantization, and within it for what only 4 bits have.
    """
    merged = merge(settings, layer)
    if chosen := layer.get("trainer"):
        # One trainer takes the place of another; of trl's alone single arguments are merged.
        kept = {key: value for key, value in merged["trainer"].items() if key in chosen}
        merged["trainer"] = kept | {key: chosen[key] for key in chosen if key != "trl"}
    method = layer.get("method") or {}
    if "type" not in method:
        if "quantization" in method:
            merged["method"] = merged["method"] | {"type": "qlora"}
        elif "full" in method:
            merged["method"] = merged["method"] | {"type": "full"}
        elif "lora" in method and merged["method"]["type"] == "full":
            merged["method"] = merged["method"] | {"type": "lora"}
    quantization = method.get("quantization") or {}
    if quantization and "bits" not in quantization:
        merged["method"] = merge(merged["method"], {"quantization": {"bits": 4}})
    numbers = layer.get("hyperparameters") or {}
    for given, other in (("epochs", "maxSteps"), ("maxSteps", "epochs")):
        if given in numbers:
            merged["hyperparameters"] = {
                key: value for key, value in merged["hyperparameters"].items() if key != other
            }
    return merged
