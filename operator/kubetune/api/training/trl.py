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
from kubetune.api.schema.rules import Message, Rule, RulesError, cel_list, cel_text, cel_told

Integer = Int32
Number = float
Text = Annotated[str, Field(max_length=1024)]
TextList = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=64)]
Map = Annotated[dict[str, JsonValue], Field(max_length=64)]
AnyInteger = int
"""This and the next: of arguments that are refused, whatever is in them."""
AnyText = str
AnyTextList = list[str]
AnyMap = dict[str, JsonValue]


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
            set_here = [name for name, item in given.items() if item is not None]
            if broken := [
                _refused(name, cls.owned[name]) for name in set_here if name in cls.owned
            ]:
                raise RulesError(broken)
        return cast("Any", value)


def refused(owned: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rule that refuses owned arguments, each with what to do instead."""
    by_advice: dict[str, list[str]] = {}
    for name, instead in owned.items():
        by_advice.setdefault(instead, []).append(name)
    advice = ",".join(f"{cel_text(text)}:{cel_list(names)}" for text, names in by_advice.items())
    is_there = "dyn(self)[?name].hasValue()"

    def given(arguments: Any) -> list[str]:
        return [name for name in owned if getattr(arguments, name) is not None]

    return (
        Rule(
            # By their names, each of which stands here once: has(self.name) for all of them would
            # take more room than all else in the schema.
            cel=f"!{cel_list(owned)}.exists(name, {is_there})",
            message="not a free argument: see docs/trainer-arguments.md",
            check=lambda arguments: not given(arguments),
            exact=Message(
                cel=cel_told(
                    f"[{{{advice}}}].map(by, by.filter(text, by[text].exists(name, {is_there}))"
                    f".map(text, by[text].filter(name, {is_there})[0]"
                    " + ': not a free argument: ' + text))[0]"
                ),
                text=lambda arguments: "; ".join(
                    f"{name}: not a free argument: {owned[name]}" for name in given(arguments)
                ),
            ),
        ),
    )


def _refused(name: str, instead: str) -> Rule:
    return Rule(
        cel=f"!has(self.{name})",
        message=f"not a free argument: {instead}",
        check=lambda arguments: getattr(arguments, name) is None,
        field=name,
    )
