"""``openapi.yaml`` and the package made of it say what ``contract.json`` says, and no more.

The file holds the API of a workspace as facts: operations with their parameters and models, and
the fields of the models with their types. A list in the place of fields is an enumeration.
"""

import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubetune.api import JsonObject
from kubetune_devcluster.cml import client_package

FILE = Path(__file__).with_name("contract.json")
ANSWERS_A_FILE = {"download_project_file"}
"""The declared type of this answer is wrong in workspaces too."""


@cache
def contract() -> JsonObject:
    """The facts."""
    return json.loads(FILE.read_text())


@cache
def openapi() -> JsonObject:
    """What the simulator checks requests against, and what the package is made of."""
    return yaml.safe_load(client_package.CONTRACT.read_text())


def type_of(schema: JsonObject) -> str:
    """The type of an OpenAPI schema in the words of the facts."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    match schema["type"], schema.get("format"):
        case "string", "date-time":
            return "datetime"
        case "array", _:
            return f"list[{type_of(schema['items'])}]"
        case "object", _ if "additionalProperties" in schema:
            return f"dict(str, {type_of(schema['additionalProperties'])})"
        case kind, _:
            names: dict[str, str] = {
                "string": "str",
                "integer": "int",
                "number": "float",
                "boolean": "bool",
            }
            return names.get(str(kind), str(kind))


def written() -> Iterator[tuple[str, JsonObject]]:
    """The operations of ``openapi.yaml`` that the package has, each in the form of the facts."""
    shared = openapi()["components"]["parameters"]
    for path, verbs in openapi()["paths"].items():
        for verb in set(verbs) - {"parameters"}:
            found = verbs[verb]
            if found.get("x-not-generated"):
                continue
            given = [*verbs.get("parameters", []), *found.get("parameters", [])]
            given = [shared[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
                     for one in given]  # fmt: skip
            content = found.get("requestBody", {}).get("content", {})
            body = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            files = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
            answer = found["responses"]["200"]["content"]["application/json"]["schema"]
            yield (
                re.sub(r"(?<!^)(?=[A-Z])", "_", found["operationId"]).lower(),
                {
                    "method": verb.upper(),
                    "path": path,
                    "body": body.rpartition("/")[2],
                    "params": {one["name"].replace(".", "_") for one in given}
                    | ({"body"} if body else set())
                    | set(files),
                    "response": answer.get("$ref", "").rpartition("/")[2],
                },
            )


def test_the_same_operations() -> None:
    assert {name for name, _ in written()} == set(contract()["operations"])


@pytest.mark.parametrize("name", contract()["operations"])
def test_an_operation_is_called_as_in_a_workspace(name: str) -> None:
    found = dict(written())[name]
    fact = contract()["operations"][name]
    expected = {key: fact.get(key) or "" for key in ("method", "path", "body", "response")}
    assert found == expected | {"params": set(fact["params"])}


def test_the_same_models() -> None:
    schemas = openapi()["components"]["schemas"]
    # Answers that hold nothing are models all the same.
    empty = {fact.get("response", "") for fact in contract()["operations"].values()} - {""}
    assert set(contract()["models"]) <= set(schemas)
    assert set(schemas) - set(contract()["models"]) <= empty
    for name in set(schemas) - set(contract()["models"]):
        assert not schemas[name].get("properties"), name


@pytest.mark.parametrize("name", contract()["models"])
def test_a_model_has_the_fields_of_a_workspace(name: str) -> None:
    schema, fact = openapi()["components"]["schemas"][name], contract()["models"][name]
    if isinstance(fact, list):
        assert sorted(schema["enum"]) == sorted(fact)
    else:
        assert {key: type_of(one) for key, one in schema["properties"].items()} == fact


def test_the_package_has_the_same_operations(client: Any) -> None:
    public = {name for name, _ in inspect.getmembers(type(client), inspect.isfunction)}
    plain = {name for name in public if not name.startswith("_")}
    assert {name.removesuffix("_with_http_info") for name in plain} == set(contract()["operations"])


@pytest.mark.parametrize("name", contract()["operations"])
def test_the_package_takes_the_arguments_of_a_workspace(client: Any, name: str) -> None:
    fact = contract()["operations"][name]
    parameters = inspect.signature(getattr(client, name)).parameters
    assert [key for key in parameters if key != "kwargs"] == fact["required"]
    # The others are only named in a list that the method compares its keywords with.
    source = inspect.getsource(getattr(client, f"{name}_with_http_info"))
    known = re.search(r"all_params = \[([^\]]*)\]", source)
    assert known
    assert set(re.findall(r"'(\w+)'", known[1])) == set(fact["params"])
    answer = re.search(r"response_type='([^']*)'", source)
    if answer and name not in ANSWERS_A_FILE:
        assert answer[1] in (fact.get("response", ""), "object" if "response" not in fact else "")


@pytest.mark.parametrize(
    "name", [name for name, fact in contract()["models"].items() if isinstance(fact, dict)]
)
def test_the_package_has_the_fields_of_a_workspace(cmlapi_path: Path, name: str) -> None:
    import cmlapi  # pyright: ignore[reportMissingImports]

    model = getattr(cmlapi, name)
    named = {model.attribute_map[key]: kind for key, kind in model.swagger_types.items()}
    assert named == contract()["models"][name]
    # Attributes are called as the fields; the operator knows them by one name.
    assert all(key == field for key, field in model.attribute_map.items())
