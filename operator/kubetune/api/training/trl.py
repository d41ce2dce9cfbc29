"""What ``trainer.trl.arguments`` has in common for all objectives.

``trl_arguments.py`` (generated) has one subclass per trl configuration class, with a typed
field for each of its arguments. Those that kubetune sets itself, or that reach outside the
run, are fields too, so that the API server can refuse them with the field to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import ConfigDict, Field, JsonValue, model_validator

from kubetune.api.schema.base import Int32, Value
from kubetune.api.schema.rules import Rule, RulesError

Integer = Int32
Number = float
Text = Annotated[str, Field(max_length=1024)]
TextList = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=64)]
Map = Annotated[dict[str, JsonValue], Field(max_length=64)]


class TrlArguments(Value):
    """Arguments of a trl configuration class, under trl's own snake_case names."""

    model_config = ConfigDict(alias_generator=None)

    owned: ClassVar[Mapping[str, str]] = {}
    """Refused argument -> what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _free(cls, value: Any) -> Any:
        """Refuse owned arguments whatever they are set to, since another type won't help."""
        if isinstance(value, Mapping):
            given = cast("Mapping[str, Any]", value)
            set_here = {name for name, item in given.items() if item is not None}
            if broken := [rule for rule in cls.rules if rule.field in set_here]:
                raise RulesError(broken)
        return cast("Any", value)


def argument(text: str) -> Any:
    """A field of a TrlArguments class."""
    return Field(default=None, description=text)


def refused(owned: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules that refuse owned arguments, each with what to do instead."""
    return tuple(_refused(name, instead) for name, instead in owned.items())


def _refused(name: str, instead: str) -> Rule:
    return Rule(
        cel=f"!has(self.{name})",
        message=f"not a free argument: {instead}",
        check=lambda arguments: getattr(arguments, name) is None,
        field=name,
    )
