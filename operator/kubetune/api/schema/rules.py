"""Rules across fields, each written once and enforced twice.

A rule knows its CEL form, which the renderer puts into the CRD, and its Python form, which
the models run. Transition rules (immutability) exist in CEL only: a model sees one state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class Message:
    """What is said of one value: ``cel`` is an expression of text for the API server."""

    cel: str
    text: Callable[[Any], str]


@dataclass(frozen=True)
class Rule:
    """A condition on one value: ``cel`` for the API server, ``check`` for the models."""

    cel: str
    message: str
    check: Callable[[Any], bool]
    field: str | None = None
    """The camelCase field that an error points to, when one is to blame."""
    exact: Message | None = None
    """Said in place of ``message``, where it depends on the value."""

    def broken_by(self, value: Any) -> Rule:
        """The rule with what it says of a value."""
        return replace(self, message=self.exact.text(value)) if self.exact else self


class RulesError(ValueError):
    """A value breaks some of its rules; as the API server does, all of them are told."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        texts = [f"{rule.field}: {rule.message}" if rule.field else rule.message for rule in rules]
        super().__init__("; ".join(texts))
        self.rules = rules


@dataclass(frozen=True)
class TransitionRule:
    """A condition on an update, for the API server alone."""

    cel: str
    message: str
    exact: str | None = None
    """An expression of text for the API server, in place of ``message``."""
    frozen: tuple[str, ...] = ()
    """camelCase fields that keep their value; ``cel`` sees that none is added or removed."""
    hint: str = ""
    """What to do instead of changing one of them."""

    def of_field(self, field: str) -> str:
        """What is said of one of the frozen fields."""
        return f"{field} can't be changed; {self.hint}"


def exactly_one(*fields: str) -> Rule:
    """Exactly one of the optional siblings (snake_case names) is given."""
    names = [to_camel(name) for name in fields]
    return Rule(
        cel=f"{_count(names)} == 1",
        message=f"give exactly one of {', '.join(names)}",
        check=lambda value: sum(getattr(value, name) is not None for name in fields) == 1,
    )


def at_most_one(*fields: str, hint: str = "") -> Rule:
    """No two of the optional siblings (snake_case names) are given together."""
    names = [to_camel(name) for name in fields]
    return Rule(
        cel=f"{_count(names)} <= 1",
        message=f"give at most one of {', '.join(names)}" + (f"; {hint}" if hint else ""),
        check=lambda value: sum(getattr(value, name) is not None for name in fields) <= 1,
    )


def no_credentials(field: str, hint: str) -> Rule:
    """An address (snake_case name), when it is given, holds no user name or password."""

    def check(value: Any) -> bool:
        scheme, separator, rest = (getattr(value, field) or "").partition("://")
        is_http = separator and scheme in ("http", "https")
        return not is_http or "@" not in rest.split("/", 1)[0]

    name = to_camel(field)
    return Rule(
        cel=f"!has(self.{name}) || !self.{name}.matches('^https?://[^/]*@')",
        message=f"credentials don't belong in an address; {hint}",
        check=check,
        field=name,
    )


def unchanged(fields: Sequence[str], hint: str, always: Collection[str] = ()) -> TransitionRule:
    """Optional or required fields keep their first values, present or absent.

    ``always`` are those that are never absent, since they are required or have a default.

    Each value is compared where it stands, and one rule looks for what was added or removed.
    With each field that a rule reads of a value, the API server copies the schemas of all its
    fields, also when only the status is written.
    """
    names = cel_list(field for field in fields if field not in always)
    differs = "dyn(self)[?name].hasValue() != dyn(oldSelf)[?name].hasValue()"
    text = f" can't be changed; {hint}"
    return TransitionRule(
        cel=f"self == oldSelf || !{names}.exists(name, {differs})",
        message=f"a field was added or removed that can't be changed; {hint}",
        exact=cel_told(f"{names}.filter(name, {differs}).map(name, name + {cel_text(text)})"),
        frozen=tuple(fields),
        hint=hint,
    )


def same_choice(*fields: str, hint: str) -> TransitionRule:
    """Which of the optional siblings is given never changes; what is in them may."""
    return TransitionRule(
        cel=" && ".join(f"has(self.{field}) == has(oldSelf.{field})" for field in fields),
        message=f"a change between {' and '.join(fields)} is refused: {hint}",
    )


def changed_while_suspended(field: str) -> TransitionRule:
    """An optional field changes only where ``suspend`` was true before."""
    return TransitionRule(
        cel=(
            f"(has(self.{field}) == has(oldSelf.{field}) &&"
            f" (!has(self.{field}) || self.{field} == oldSelf.{field}))"
            " || (has(oldSelf.suspend) && oldSelf.suspend)"
        ),
        message=f"{field} can be changed only while the job is suspended; set suspend: true first",
    )


def cel_text(text: str) -> str:
    """A text as a literal of CEL."""
    return json.dumps(text, ensure_ascii=False)


def cel_list(texts: Iterable[str]) -> str:
    """A list of texts in CEL."""
    return f"[{','.join(repr(text) for text in texts)}]"


def cel_told(texts: str) -> str:
    """An expression for one text of several, by an expression for their list.

    The API server takes join for boundless, and refuses it, where it doesn't know the lengths.
    """
    return f"[{texts}].map(all, all.size() == 1 ? all[0] : '%s'.format([all]))[0]"


def _count(names: list[str]) -> str:
    return " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names)
