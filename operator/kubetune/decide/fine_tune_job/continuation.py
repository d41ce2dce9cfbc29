"""A job that starts from an adapter: which settings are the adapter's, and what can't be."""

from __future__ import annotations

from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.decide.resources import ModelResource

OWN_SETTINGS = (
    "rank",
    "alpha",
    "targetModules",
    "bias",
    "useRslora",
    "useDora",
    "modulesToSave",
)
"""What an adapter's weights are made for; dropout alone may be another from now on."""


def start_problem(spec: FineTuneJobSpec, model: ModelResource) -> str:
    """A sentence when model and spec.continueFrom don't go together, else empty."""
    is_adapter = model.status.get("type") == "adapter"
    if not is_adapter:
        if spec.continue_from is None:
            return ""
        return (
            f"spec.continueFrom is {spec.continue_from}, but Model {model.name} is a whole model,"
            " not an adapter: remove continueFrom"
        )
    if spec.continue_from is None:
        return (
            f"Model {model.name} is an adapter: set spec.continueFrom to adapter to continue"
            " training it, or to merged to train on it and its base model merged; or name its base"
            " model in spec.modelRef"
        )
    if "adapter" not in model.status:
        return (
            f"the settings of adapter {model.name} aren't known: it is no LoRA adapter, or was"
            " inspected by an earlier version; in the first case name its base model in"
            " spec.modelRef, else delete the Model and make it again"
        )
    if spec.continue_from == "adapter":
        return _contradiction(spec, model)
    return ""


def adapter_settings(spec: FineTuneJobSpec, model: ModelResource) -> JsonObject | None:
    """method.lora of a job that continues from an adapter; None for other jobs."""
    if spec.continue_from != "adapter":
        return None
    settings: JsonObject = {"targetModules": [], "modulesToSave": []}
    settings |= model.status.get("adapter") or {}
    lora = spec.method.lora if spec.method else None
    if lora is not None and lora.dropout is not None:
        settings["dropout"] = lora.dropout
    return settings


def method_problem(settings: JsonObject, spec: FineTuneJobSpec) -> str:
    """A sentence when the method in force can't do what the job asks for, else empty.

    What the spec says by itself is checked by its rules; a profile may say it too.
    """
    if spec.objective != "sft" and settings["data"]["longRows"] != "truncate":
        return (
            f"the profile's data.longRows is {settings['data']['longRows']}, which goes with"
            " objective sft: set it to truncate there, or use another profile"
        )
    if settings["method"]["type"] != "full":
        return ""
    if spec.continue_from == "adapter":
        return (
            "spec.continueFrom is adapter, but the profile's method.type is full, which trains all"
            " weights: set method.type to lora or qlora, or continueFrom to merged"
        )
    if spec.output and spec.output.merge:
        return (
            "spec.output.merge merges an adapter, but the profile's method.type is full, which"
            " trains a whole model: set method.type to lora or qlora, or remove merge"
        )
    return ""


def leaves_adapter(settings: JsonObject) -> bool:
    """Whether the result of a job with these settings in force is an adapter."""
    method = (settings.get("method") or {}).get("type")
    return method in ("lora", "qlora") and settings.get("continueFrom") != "merged"


def _contradiction(spec: FineTuneJobSpec, model: ModelResource) -> str:
    wanted = spec.method.lora.to_json() if spec.method and spec.method.lora else {}
    found: JsonObject = {**(model.status.get("adapter") or {})}
    for name in OWN_SETTINGS:
        if name not in wanted:
            continue
        asked, has = wanted[name], found.get(name, [])
        if name in ("targetModules", "modulesToSave"):
            if name == "targetModules" and name not in found:
                # Too many for the status; the run compares them.
                continue
            asked, has = sorted(asked), sorted(has)
        if asked != has:
            return (
                f"method.lora.{name} is {_shown(asked)}, but Model {model.name} has"
                f" {_shown(has)}, and spec.continueFrom adapter continues with its weights: remove"
                f" {name}, or use continueFrom merged"
            )
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "empty"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value).lower() if isinstance(value, bool) else str(value)
