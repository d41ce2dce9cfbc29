"""A structural OpenAPI schema from a model: what a CustomResourceDefinition may hold.

pydantic's JSON schema is not structural: it has references, alternatives with null, numeric
exclusive bounds and rules on property names, all of which the API server refuses or ignores.
``structural_schema`` translates them; ``kubetune.api.crd`` puts the result into the CRDs.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from kubetune.api.schema.base import Value
from kubetune.api.schema.rules import Rule, TransitionRule

Schema = dict[str, Any]

RULES = "x-kubernetes-validations"
OWN_RULES = "x-field-validations"
"""Rules of a field, beside those of its class."""
_READ = re.compile(r"self\.(\w+)")
_DROPPED = frozenset({"title", "propertyNames", "patternProperties", "$defs", OWN_RULES})


class _ValueSchema(GenerateJsonSchema):
    """pydantic's generator, with a value's rules in and null out."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        rendered = super().model_schema(schema)
        value = cast("type[Value]", schema["cls"])
        frozen = {field for transition in value.transitions for field in transition.frozen}
        if rules := [
            *(_validation(rule, frozen) for rule in value.rules),
            *(_validation(rule) for rule in value.transitions),
        ]:
            rendered[RULES] = rules
        for transition in value.transitions:
            for field in transition.frozen:
                rule = {"rule": "self == oldSelf", "message": transition.of_field(field)}
                # Beside a reference: several fields may have values of the same class.
                rendered["properties"][field] = {**rendered["properties"][field], OWN_RULES: [rule]}
        return rendered

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        # An optional field is one that may be absent; null is refused everywhere.
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def structural_schema(value: type[Value]) -> Schema:
    """The structural schema of a model, references inlined."""
    generated = value.model_json_schema(schema_generator=_ValueSchema)
    return _structural(generated, generated.get("$defs", {}))


def preserved(schema: Schema, page: str) -> Schema:
    """A part that the API server keeps as it is, without a look at what is in it.

    ``page`` is where a reader finds its fields; their names are in the description.
    """
    names = ", ".join(schema.get("items", schema).get("properties", ()))
    described = f"{schema['description']} Fields: {names} ({page})."
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if not names:
        described = schema["description"]
    if schema["type"] == "array":
        return {"type": "array", "description": described, "items": free}
    return {**free, "description": described}


def _validation(rule: Rule | TransitionRule, frozen: Collection[str] = ()) -> Schema:
    validation: Schema = {"rule": rule.cel, "message": rule.message}
    if isinstance(rule, Rule) and set(_READ.findall(rule.cel)) <= set(frozen):
        # What can't change needs no second look, and this one costs nothing. Others are looked at
        # again with each status.
        validation = {
            "rule": f"oldSelf.hasValue() || ({rule.cel})",
            "optionalOldSelf": True,
            "message": rule.message,
        }
    if isinstance(rule, Rule) and rule.field:
        validation["fieldPath"] = f".{rule.field}"
    if rule.exact:
        validation["messageExpression"] = (
            rule.exact if isinstance(rule.exact, str) else rule.exact.cel
        )
    return validation


def _structural(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" in schema:
        referenced = definitions[schema["$ref"].removeprefix("#/$defs/")]
        beside = {key: item for key, item in schema.items() if key != "$ref"}
        # What stands at the field (its description) wins over what stands at the class.
        return _structural({**referenced, **beside}, definitions)
    result = {key: item for key, item in schema.items() if key not in _DROPPED}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in result:
            result[bound] = result[exclusive]
            result[exclusive] = True
    if "properties" in result:
        # Unknown fields are refused by strict field validation and pruned otherwise; the
        # structural form has no additionalProperties next to properties.
        result.pop("additionalProperties", None)
        result["properties"] = {
            name: _structural(item, definitions) for name, item in result["properties"].items()
        }
    elif result.get("type") == "object":
        patterns = schema.get("patternProperties", {})
        given = next(iter(patterns.values()), result.pop("additionalProperties", True))
        values: Schema = {} if given is True else _structural(given, definitions)
        if "type" in values:
            result["additionalProperties"] = values
        else:
            # A map of free values. As additionalProperties without a type it would be valid
            # too, but CEL would not see the field, and no rule could ask whether it is there.
            result["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in result:
        result["items"] = _structural(result["items"], definitions)
    if names := schema.get("propertyNames"):
        pattern = next(iter(schema.get("patternProperties", {})), None)
        result[RULES] = [_key_rule(names, pattern)]
    if own := schema.get(OWN_RULES):
        result[RULES] = [*result.get(RULES, ()), *own]
    if not result.keys() & {"type", "x-kubernetes-int-or-string"}:
        result["x-kubernetes-preserve-unknown-fields"] = True
    return result


def _key_rule(names: Schema, pattern: str | None) -> Schema:
    """Bounds on the keys of a map: structural schemas have none, CEL does."""
    conditions: list[str] = []
    if "minLength" in names:
        conditions.append(f"size(key) >= {names['minLength']}")
    if "maxLength" in names:
        conditions.append(f"size(key) <= {names['maxLength']}")
    if pattern:
        conditions.append(f"key.matches(r'{pattern}')")
    return {
        "rule": f"self.all(key, {' && '.join(conditions)})",
        "message": names.get("description", "a key is too short, too long or malformed"),
    }
