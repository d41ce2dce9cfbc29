"""Names in a model registry, by MLflow's own rules: what it would refuse is refused at admission.

MLflow tells only when a version is made, which is after the training.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import Field
from pydantic.alias_generators import to_camel

from kubetune.api.schema.rules import Rule

MAX_REGISTERED_NAME = 256
"""The longest name that every store of MLflow keeps."""
MAX_ALIAS = 190
"""With the alias in it, the key of a tag that records a move fits into MLflow's 250 characters."""

RegistryName = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^/:@?#%;\x00-\x1f\x7f]+$")
]
"""Without what MLflow's client takes for the end of a name in ``models:/name/version``: it would
load another model than the one that was asked about."""
RegistryAlias = Annotated[
    str, Field(min_length=1, max_length=MAX_ALIAS, pattern=r"^[A-Za-z][-A-Za-z0-9_]*$")
]

_RESERVED = "^([vV][0-9]+|[lL][aA][tT][eE][sS][tT])$"


def not_reserved(field: str = "alias") -> Rule:
    """An alias (snake_case name), when it is given, is none that MLflow has a use for."""
    name = to_camel(field)

    def check(value: Any) -> bool:
        given = getattr(value, field)
        return given is None or re.match(_RESERVED, given) is None

    return Rule(
        cel=f"!has(self.{name}) || !self.{name}.matches('{_RESERVED}')",
        message="MLflow reserves latest, and v with a number such as v1, for versions: choose"
        " another alias",
        check=check,
        field=name,
    )


def registrable(field: str = "name") -> Rule:
    """A name (snake_case field), when it is given, is one that MLflow registers and finds."""
    name = to_camel(field)
    return Rule(
        cel=f"!has(self.{name}) || (self.{name} != '.' && !self.{name}.startsWith('..')"
        f" && self.{name}.matches('[^\\\\x00-\\\\x20\\\\x7f-\\\\xa0\\\\p{{Z}}]')"
        f" && !(self.{name}.contains('\"') && self.{name}.contains(\"'\")))",
        message="MLflow registers no model of this name: it must not be blank, be a dot, begin with"
        " two, or hold both kinds of quotes",
        check=lambda value: _is_registrable(getattr(value, field)),
        field=name,
    )


def _is_registrable(name: str | None) -> bool:
    if name is None:
        return True
    path = name == "." or name.startswith("..")
    return not path and any(map(_is_shown, name)) and not ('"' in name and "'" in name)


def _is_shown(character: str) -> bool:
    """Neither whitespace nor a control character, as the rule for the API server has it."""
    control = character <= "\x20" or "\x7f" <= character <= "\xa0"
    return not control and not unicodedata.category(character).startswith("Z")
