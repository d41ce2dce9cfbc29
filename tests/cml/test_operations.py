"""What the operator calls, sends and reads of a workspace is what ``contract.json`` says.

``kubetune.clients.cml`` takes only operations of ``cml_operations`` and gives only models of
``cml_models``, so that each field that any code reads or writes is compared here.
"""

import types
import typing
from collections.abc import Iterator
from datetime import datetime
from typing import Any, get_args, get_origin

import pytest
from kubetune.clients import cml_operations
from kubetune.clients.cml_models import Answer, Body, Nothing
from kubetune.clients.cml_operations import Listing, Operation

from tests.cml import tracked
from tests.cml.test_contract import contract

Model = type[Answer] | type[Body]

OPERATIONS: dict[str, Operation[Any]] = {
    name: value
    for module in (cml_operations, tracked)
    for name, value in vars(module).items()
    if isinstance(value, Operation)
}


def name_of(model: Model) -> str:
    """The model's name in the API."""
    return model.api_name or model.__name__


def models_of(operation: Operation[Any]) -> Iterator[Model]:
    """The models that an operation sends or reads, with those inside of them."""
    waiting: list[Any] = [operation.answer, operation.body]
    seen: set[Any] = {None, Nothing}
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        yield model
        for field in model.model_fields.values():
            waiting += [kind for kind in kinds(field.annotation) if is_model(kind)]


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Answer | Body)


def kinds(annotation: Any) -> Iterator[Any]:
    """The types of which a type is made."""
    yield annotation
    for part in get_args(annotation):
        yield from kinds(part)


def type_name(annotation: Any) -> str:
    """A type in the words of the facts; that something may be missing is no part of it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return type_name(parts[0])
    if origin is types.UnionType or origin is typing.Union:
        (one,) = [part for part in parts if part is not type(None)]
        return type_name(one)
    if origin is list:
        return f"list[{type_name(parts[0])}]"
    if origin is dict:
        return f"dict({type_name(parts[0])}, {type_name(parts[1])})"
    if is_model(annotation):
        return name_of(annotation)
    assert annotation in (str, int, float, bool, datetime), annotation
    return annotation.__name__


def fact_name(kind: str) -> str:
    """A type of the facts as the client gives it: enumerations are plain text."""
    for name, fields in contract()["models"].items():
        if isinstance(fields, list) and kind == name:
            return "str"
    return kind


def differences(model: Model) -> dict[str, tuple[str, str | None]]:
    """Fields that the API doesn't have, or has in another type: what is here, what is there."""
    facts = contract()["models"][name_of(model)]
    found = {name: type_name(field.annotation) for name, field in model.model_fields.items()}
    return {
        name: (kind, facts.get(name))
        for name, kind in found.items()
        if name not in facts or fact_name(facts[name]) != kind
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_one_of_a_workspace(name: str) -> None:
    operation = OPERATIONS[name]
    fact = contract()["operations"][operation.name]
    required = [*(["body"] if operation.body else []), *operation.ids]
    assert required == fact["required"]
    assert operation.allowed <= set(fact["params"])
    if operation.body:
        assert name_of(operation.body) == fact["body"]
    if isinstance(operation, Listing):
        assert operation.of == fact["response"]
        page = contract()["models"][operation.of]
        assert page[operation.items] == f"list[{name_of(operation.answer)}]"
        assert page["next_page_token"] == "str"
    elif operation.answer is not Nothing:
        assert name_of(operation.answer) == fact["response"]
    if operation.key:
        assert operation.key in operation.answer.model_fields


@pytest.mark.parametrize("name", OPERATIONS)
def test_all_that_is_sent_and_read_is_in_the_api(name: str) -> None:
    found = {model.__name__: differences(model) for model in models_of(OPERATIONS[name])}
    assert {model: wrong for model, wrong in found.items() if wrong} == {}


def test_files_are_sent_where_a_workspace_takes_them() -> None:
    fact = contract()["operations"]["upload_file"]
    assert (fact["method"], fact["path"]) == cml_operations.UPLOAD_FILE


def test_a_field_that_the_api_lacks_or_has_in_another_type_is_found() -> None:
    class Quota(Answer):
        username: str = ""
        cpu: float = 0.0
        memory: str = ""

    assert differences(Quota) == {"username": ("str", None), "cpu": ("float", "str")}
