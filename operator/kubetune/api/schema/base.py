"""Base classes of every declared value: strict, frozen, camelCase on the wire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic.config import JsonDict

from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.rules import Rule, RulesError, TransitionRule

DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
"""The name of an object in the same namespace."""

HubRepo = Annotated[
    str,
    Field(
        min_length=1,
        max_length=193,
        pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]*(/[A-Za-z0-9][-A-Za-z0-9_.]*)?$",
    ),
]
"""A repository of a Hugging Face hub, with or without its owner."""

ConfigKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""A key of a ConfigMap or a Secret."""

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
LimitSeconds = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""How long something may take."""


class Value(BaseModel):
    """A part of a spec.

    Strict: ``True`` is not a rank and ``"3"`` is not 3. Unknown fields are refused; the
    operator reads with ``extra="ignore"``, so a field of a newer CRD doesn't stop it.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=False,
        validate_by_alias=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        # Of 150 classes a process uses few, and each costs milliseconds.
        defer_build=True,
    )

    references: ClassVar[tuple[Reference, ...]] = ()
    """Of a whole spec: fields that name other objects."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules across fields; enforced here and, as CEL, by the API server."""

    transitions: ClassVar[tuple[TransitionRule, ...]] = ()
    """Rules on updates; enforced by the API server alone."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_api_server_reads(cls, value: Any) -> Any:
        """Null is as good as absent, and 16.0 is 16 where an integer belongs."""
        if not isinstance(value, Mapping):
            return value
        given = cast("Mapping[Any, Any]", value)
        known, integers = _field_names(cls)
        return {
            key: int(item)
            if isinstance(item, float) and key in integers and item.is_integer()
            else item
            for key, item in given.items()
            if item is not None or key not in known
        }

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        if broken := [rule.broken_by(self) for rule in self.rules if not rule.check(self)]:
            raise RulesError(broken)
        return self

    def to_json(self) -> dict[str, Any]:
        """The value as it stands in a manifest: camelCase keys, unset fields absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def keyed_by(field: str) -> tuple[Any, Any]:
    """Annotations of a list whose items are known by one required field.

    No two items may have the same key; server-side apply merges such lists by it.
    """
    attribute = to_snake(field)

    def unique(items: list[Any]) -> list[Any]:
        keys = [getattr(item, attribute) for item in items]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"two items have {field} {key!r}; each may stand here once")
        return items

    schema: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}
    return AfterValidator(unique), Field(json_schema_extra=schema)


@cache
def _field_names(value: type[Value]) -> tuple[frozenset[str], frozenset[str]]:
    """All names on the wire, and those of integers that may be written as 16.0.

    CEL is stricter than the API server's schema: it has no integer 16.0, so a field that a rule
    reads must be written as one.
    """
    fields = {field.alias or name: field for name, field in value.model_fields.items()}
    integers = {name for name, field in fields.items() if _is_integer(field.annotation)}
    read = {name for rule in value.rules for name in re.findall(r"self\.(\w+)", rule.cel)}
    return frozenset(fields), frozenset(integers - read)


def _is_integer(annotation: object) -> bool:
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(_is_integer(argument) for argument in get_args(annotation))
    return annotation is int


def without_nulls(value: Any) -> Any:
    """A map from key to text as the API server reads it: null is as good as absent."""
    if not isinstance(value, Mapping):
        return value
    given = cast("Mapping[Any, Any]", value)
    return {key: item for key, item in given.items() if item is not None}


class SecretKeyRef(Value):
    """One key of a Secret in the namespace of the object that names it."""

    name: ObjectName = Field(description="Name of a Secret in the same namespace.")
    key: ConfigKey = Field(description="Key in the Secret's data.")


class LocalRef(Value):
    """An object of the fitting kind in the same namespace."""

    name: ObjectName = Field(description="Name of an object in the same namespace.")


class PlanValue(Value):
    """A part of a plan: as strict as a spec; built by field name, written in camelCase."""

    model_config = ConfigDict(validate_by_name=True)
