"""A configuration of axolotl's: read from a ConfigMap, and compared with what is declared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.bounded import SETTINGS
from kubetune.api.training.axolotl import (
    MAX_CONFIG_CHARACTERS,
    TYPED,
    AxolotlTrainer,
    adapter_of,
    instead_of,
)
from kubetune.api.yaml_text import YamlError, read


class ConfigError(ValueError):
    """The configuration can't be read."""


def configuration(trainer: AxolotlTrainer, text: str | None) -> JsonObject:
    """The configuration as declared, or as the ConfigMap has it. Raises ConfigError."""
    if trainer.config is not None:
        given: Any = trainer.config
    else:
        given = _read(trainer, text or "")
    try:
        size = len(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"axolotl's configuration isn't JSON: {error}") from error
    if size > MAX_CONFIG_CHARACTERS:
        raise ConfigError(
            f"axolotl's configuration has {size:,} characters as JSON, the limit is"
            f" {MAX_CONFIG_CHARACTERS:,}: shorten it"
        )
    return given


def config_problem(config: Mapping[str, Any], job: JsonObject) -> str:
    """Which key contradicts what the job's own spec declares, else empty."""
    for key in sorted(config):
        name = f"trainer.axolotl: {key}"
        if instead := instead_of(key):
            return f"{name} is kubetune's to set: {instead}"
        field = TYPED.get(key)
        # The adapter is compared with the method in force.
        if field and key != "adapter" and _given(job, field):
            return f"{name} and {field} say the same: give one of them"
    return ""


def adapter_conflict(config: Mapping[str, Any], method: str) -> str:
    """Why the adapter that the configuration asks for isn't the method in force, else empty."""
    wanted = adapter_of(config)
    if wanted is None or wanted == method:
        return ""
    return (
        f"trainer.axolotl: adapter asks for {wanted}, and the method in force is {method}: set"
        f" method.type to {wanted} if that is meant, or leave adapter out"
    )


def _read(trainer: AxolotlTrainer, text: str) -> JsonObject:
    source = trainer.config_map_ref
    assert source is not None, "the rules ask for one of the two"
    place = f"key {source.key} of ConfigMap {source.name}"
    if len(text) > MAX_CONFIG_CHARACTERS:
        raise ConfigError(
            f"{place} has {len(text):,} characters, the limit is {MAX_CONFIG_CHARACTERS:,}:"
            " shorten it"
        )
    try:
        found = [document.value for document in read(text, SETTINGS)]
    except YamlError as error:
        raise ConfigError(f"{place} isn't YAML: {error}") from error
    if len(found) != 1 or not isinstance(found[0], dict):
        raise ConfigError(f"{place} is not one map of axolotl's options")
    return found[0]


def _given(job: JsonObject, field: str) -> bool:
    value: Any = job
    for part in field.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True
