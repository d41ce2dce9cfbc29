"""Turns a model's validation errors into sentences for people.

Each names the field by its camelCase path, the value that was given and the way out. The
command line prints them with file and line, the operator puts them into a condition.
"""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kubetune.api.rules import RuleError

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
    return [_problem(details, model, prefix) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, model: type[BaseModel], prefix: Path) -> Problem:
    path = (*prefix, *details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, RuleError):
        return Problem((*path, cause.field) if cause.field else path, cause.message)
    if cause is not None:
        return Problem(path, str(cause))
    if details["type"] == "extra_forbidden":
        return Problem(path, _unknown_field(details["loc"], model))
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


def _unknown_field(location: Path, model: type[BaseModel]) -> str:
    known = sorted(_known_fields(location[:-1], model))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"unknown field; did you mean {close[0]}?"
    return f"unknown field; known here: {', '.join(known)}" if known else "unknown field"


def _known_fields(location: Path, model: type[BaseModel]) -> set[str]:
    """The camelCase fields of the model at a location inside ``model``."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue  # the item's model is that of the list
        fields = {f.alias or name: f for name, f in current.model_fields.items()}
        current = next(_models(fields[str(part)].annotation), None) if part in fields else None
        if current is None:
            return set()
    return {field.alias or name for name, field in current.model_fields.items()}


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
