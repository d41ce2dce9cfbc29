"""From what came over the wire to what the operator reads: nothing else gets through."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from kubetune.api import JsonObject
from kubetune.api.bounded import LimitError, json_object
from kubetune.clients.cml_errors import InvalidError, UnreadableAnswerError
from kubetune.clients.cml_models import Answer
from kubetune.clients.cml_operations import Listing, Operation

A = TypeVar("A", bound=Answer)


def answer_of(operation: Operation[A], given: JsonObject | None) -> A:
    """The answer of an operation. Raises UnreadableAnswerError."""
    if given is None:
        # Answers of writes are empty where nothing is to be said.
        if operation.answer.model_fields:
            raise UnreadableAnswerError("the answer is empty")
        given = {}
    try:
        answer = operation.answer.model_validate(given)
    except ValidationError as error:
        raise UnreadableAnswerError(_described(error)) from None
    if operation.key and not getattr(answer, operation.key):
        raise UnreadableAnswerError(f"there is no {operation.key} in it")
    return answer


def page_of(operation: Listing[A], given: JsonObject | None) -> tuple[list[A], str]:
    """The items of a page and the next page's token. Raises UnreadableAnswerError, InvalidError."""
    if given is None:
        raise UnreadableAnswerError("the answer is empty")
    if given and operation.items not in given:
        raise InvalidError(
            f"the installed cmlapi package has no {operation.items} in {operation.name}"
        )
    # A null in a list tells of nothing; an item without its id tells of something unknown.
    items = [item for item in given.get(operation.items) or () if item is not None]
    return [answer_of(operation, item) for item in items], str(given.get("next_page_token") or "")


def _described(error: ValidationError) -> str:
    """Where and why an answer doesn't fit, without what it holds."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:3])


def strict(base: type[Any]) -> type[Any]:
    """The package's ApiClient, which takes any text for an object without fields."""

    class StrictApiClient(base):
        def deserialize(self, response: Any, response_type: Any) -> Any:
            if not response.data:
                return None
            try:
                json_object(response.data)
            except LimitError:
                raise
            except ValueError as error:
                raise UnreadableAnswerError(str(error)) from None
            try:
                return super().deserialize(response, response_type)
            except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
                raise UnreadableAnswerError(f"a field can't be read: {error}") from None

    return StrictApiClient
