"""The defaults that the API server fills in, as the CRDs' schemas have them."""

from __future__ import annotations

from functools import cache
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.crd import custom_resource_definition
from kubetune.api.kinds.table import BY_KIND


def with_defaults(body: JsonObject) -> JsonObject:
    """An object of one of kubetune's kinds with the defaults of its spec; others as they are."""
    if body["kind"] not in BY_KIND or "spec" not in body:
        return body
    return {**body, "spec": _filled(_tree(body["kind"]), body["spec"])}


@cache
def _tree(kind: str) -> JsonObject:
    version = custom_resource_definition(BY_KIND[kind])["spec"]["versions"][0]
    return _pruned(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def _pruned(schema: JsonObject) -> JsonObject:
    """Only what leads to a default."""
    kept: JsonObject = {}
    if "default" in schema:
        kept["default"] = schema["default"]
    fields = {name: _pruned(field) for name, field in (schema.get("properties") or {}).items()}
    if fields := {name: field for name, field in fields.items() if field}:
        kept["fields"] = fields
    if isinstance(items := schema.get("items"), dict) and (item := _pruned(items)):
        kept["items"] = item
    return kept


def _filled(tree: JsonObject, value: Any) -> Any:
    if isinstance(value, dict) and "fields" in tree:
        new: JsonObject = dict(value)
        for name, field in tree["fields"].items():
            if name not in new and "default" in field:
                new[name] = field["default"]
            if name in new:
                new[name] = _filled(field, new[name])
        return new
    if isinstance(value, list) and "items" in tree:
        return [_filled(tree["items"], item) for item in value]
    return value
