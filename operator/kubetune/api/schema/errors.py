"""Turns a model's validation errors into sentences for people.

Each names the field by its camelCase path, the value that was given and the way out. The
command line prints them with file and line, the operator puts them into a condition.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kubetune.api.schema.addresses import MEANINGS
from kubetune.api.schema.rules import RulesError
from kubetune.api.schema.suggestions import unknown_field

Path = tuple[str | int, ...]

_WANTED = {
    "int": "an integer",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a map",
    "model": "a map",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True)
class Problem:
    """One reason why a manifest is refused."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


def dotted(path: Path) -> str:
    """``("spec", "env", 0, "name")`` as ``spec.env[0].name``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def problems(error: ValidationError, model: type[BaseModel], prefix: Path = ()) -> list[Problem]:
    """All problems of one validation, in the order of the fields."""
    return [
        problem
        for details in error.errors(include_url=False)
        for problem in _problems(details, model, prefix)
    ]


def _problems(details: ErrorDetails, model: type[BaseModel], prefix: Path) -> list[Problem]:
    path = (*prefix, *details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, RulesError):
        return [
            Problem((*path, rule.field) if rule.field else path, rule.message)
            for rule in cause.rules
        ]
    return [_problem(details, path, cause, model)]


def _problem(details: ErrorDetails, path: Path, cause: object, model: type[BaseModel]) -> Problem:
    if cause is not None:
        return Problem(path, str(cause))
    if details["type"] == "extra_forbidden":
        return Problem(path, unknown_field(details["loc"], model))
    if path[-1:] == ("[key]",):  # pydantic's mark for the key of a map
        return Problem(path[:-2], f"key {shown(path[-2])} {_message(details)}")
    return Problem(path, _message(details))


def _message(details: ErrorDetails) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), shown(details["input"])
    if kind == "missing":
        return "is required; add it"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]:.10g}, not {value}"
    if kind == "literal_error":
        return f"must be {context['expected']}, not {value}"
    if kind == "string_pattern_mismatch" and (meaning := MEANINGS.get(context["pattern"])):
        return f"{meaning}; {value} is none"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, which {value} does not"
    if kind in ("string_too_long", "string_too_short"):
        bound = context.get("max_length", context.get("min_length"))
        words = "at most" if "max_length" in context else "at least"
        return f"must have {words} {bound} characters, not {len(details['input'])}"
    if kind in ("too_long", "too_short"):
        bound = context.get("max_length", context.get("min_length"))
        words = "at most" if "max_length" in context else "at least"
        return f"must have {words} {bound} items, not {context['actual_length']}"
    if kind == "finite_number":
        return f"must be a finite number, not {value}"
    wanted = _WANTED.get(kind.removesuffix("_type").removesuffix("_from_float"))
    if wanted and kind.endswith(("_type", "_from_float")):
        return f"must be {wanted}, not {value}"
    return f"{details['msg']} (given: {value})"


def shown(value: object) -> str:
    """A value for a message: as JSON, at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
