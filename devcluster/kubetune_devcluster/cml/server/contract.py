"""The OpenAPI file as the server uses it: which operation a request is, and what it may hold."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import yaml

from kubetune_devcluster.cml.server.errors import RefusalError, invalid

FILE = Path(__file__).parent.parent / "openapi.yaml"
_VERBS = ("get", "post", "put", "patch", "delete")
_INTEGER = re.compile(r"^-?\d+$")


@dataclass(frozen=True)
class Operation:
    """One operation; ``name`` is the generated client's method."""

    name: str
    verb: str
    pattern: re.Pattern[str]
    parameters: tuple[str, ...]
    body: str | None
    query: Mapping[str, Mapping[str, Any]]
    filters: tuple[str, ...]
    upload: bool


class Contract:
    """All operations and schemas of the file."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._schemas: dict[str, Any] = document["components"]["schemas"]
        self._parameters: dict[str, Any] = document["components"]["parameters"]
        self.operations = tuple(
            self._operation(template, verb, path)
            for template, path in document["paths"].items()
            for verb in _VERBS
            if verb in path
        )

    def names(self) -> frozenset[str]:
        """The names of all operations."""
        return frozenset(operation.name for operation in self.operations)

    def match(self, verb: str, path: str) -> tuple[Operation, dict[str, str]]:
        """The operation of a request and its path parameters; ``path`` is still encoded."""
        seen = False
        for operation in self.operations:
            if match := operation.pattern.fullmatch(path):
                seen = True
                if operation.verb == verb.lower():
                    values = map(unquote, match.groups())
                    return operation, dict(zip(operation.parameters, values, strict=True))
        if seen:
            raise RefusalError(12, "Method Not Allowed")
        raise RefusalError(5, "Not Found")

    def check_query(self, operation: Operation, query: Mapping[str, str]) -> None:
        """Refuse parameters that the operation lacks or that have another type."""
        for name, value in query.items():
            schema = operation.query.get(name)
            if schema is None:
                raise invalid(f'unknown query parameter "{name}" of {operation.name}')
            wrong = (schema["type"] == "integer" and not _INTEGER.match(value)) or (
                schema["type"] == "boolean" and value.lower() not in ("true", "false")
            )
            if wrong:
                raise invalid(f'query parameter "{name}" must be {schema["type"]}, got "{value}"')

    def check_body(self, operation: Operation, body: Any) -> dict[str, Any]:
        """The body without empty fields; refuses unknown fields, wrong types, missing ones."""
        if operation.body is None:
            return {}
        schema = self._schemas[operation.body]
        if not isinstance(body, dict):
            raise invalid(f"the body must be a JSON object ({operation.body})")
        given = self._value(schema, cast("dict[str, Any]", body), "")
        for field in schema.get("x-needed", []):
            # As in protocol buffers, an empty text is a missing one.
            if given.get(field) in (None, ""):
                raise invalid(f"{field} is required")
        return given

    def _operation(self, template: str, verb: str, path: Mapping[str, Any]) -> Operation:
        found: dict[str, Any] = path[verb]
        parameters = [
            self._parameters[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            for one in (*path.get("parameters", []), *found.get("parameters", []))
        ]
        # A path in the project may come with bare slashes, and be empty for the top folder.
        pattern = re.sub(r"\\\{path\\\}", "(.*?)", re.escape(template))
        pattern = re.sub(r"\\\{[a-z_.\\]+?\\\}", "([^/:]+)", pattern)
        content = found.get("requestBody", {}).get("content", {})
        reference: str = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        return Operation(
            name=re.sub(r"(?<!^)(?=[A-Z])", "_", found["operationId"]).lower(),
            verb=verb,
            pattern=re.compile(pattern),
            parameters=tuple(n.replace(".", "_") for n in re.findall(r"\{([a-z_.]+)\}", template)),
            body=reference.rpartition("/")[2] or None,
            query={one["name"]: one["schema"] for one in parameters if one["in"] == "query"},
            filters=tuple(found.get("x-filter", ())),
            upload="multipart/form-data" in content,
        )

    def _value(self, schema: Mapping[str, Any], value: Any, where: str) -> Any:
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        if allowed := schema.get("enum", schema.get("x-values")):
            if value not in allowed:
                raise invalid(f"invalid value for {where}: {value!r} is none of {allowed}")
            return value
        match schema["type"]:
            case "object":
                return self._object(schema, value, where)
            case "array":
                if not isinstance(value, list):
                    raise _wrong(where, "a list", value)
                items = enumerate(cast("list[Any]", value))
                return [self._value(schema["items"], item, f"{where}[{n}]") for n, item in items]
            case "boolean":
                if not isinstance(value, bool):
                    raise _wrong(where, "true or false", value)
                return value
            case "string":
                return _string(schema, value, where)
            case _:
                return _number(schema, value, where)

    def _object(self, schema: Mapping[str, Any], value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        given = cast("dict[str, Any]", value)
        fields: Mapping[str, Any] = schema.get("properties", {})
        others: Mapping[str, Any] | None = schema.get("additionalProperties")
        result: dict[str, Any] = {}
        for name, item in given.items():
            below = f"{where}.{name}" if where else name
            inner = fields.get(name, others)
            if inner is None:
                raise invalid(f'unknown field "{below}"')
            if item is None and others is None:
                continue
            result[name] = self._value(inner, item, below)
        return result


def _string(schema: Mapping[str, Any], value: Any, where: str) -> str:
    if schema.get("format") == "int64":
        # 64-bit numbers are text in JSON; the gateway takes both forms.
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise _wrong(where, "a number or its text", value)
        if not _INTEGER.match(str(value)):
            raise _wrong(where, "a number or its text", value)
        return str(value)
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    return value


def _number(schema: Mapping[str, Any], value: Any, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, "a number", value)
    if schema["type"] == "integer":
        if value != int(value):
            raise _wrong(where, "a whole number", value)
        if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
            raise _wrong(where, "a 32-bit number", value)
        return int(value)
    return value


def _wrong(where: str, expected: str, value: Any) -> RefusalError:
    return invalid(f"invalid value for {where}: expected {expected}, got {type(value).__name__}")


@functools.cache
def load() -> Contract:
    """The contract of ``openapi.yaml``."""
    return Contract(yaml.safe_load(FILE.read_text()))
