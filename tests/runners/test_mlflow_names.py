"""Names that are accepted at admission are names that MLflow takes, by its own checks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.api.kinds.fine_tune_job.spec import RegistryOutput
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    MAX_MODEL_REGISTRY_TAG_KEY_LENGTH,
    _validate_length_limit,
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
    _validate_tag_name,
)
from pydantic import ValidationError

UID = "01234567-89ab-cdef-0123-456789abcdef"


def is_taken(field: str, value: str) -> bool:
    try:
        RegistryOutput.model_validate({field: value})
    except ValidationError:
        return False
    return True


def registers(name: str) -> bool:
    try:
        _validate_model_name(name)
    except MlflowException:
        return False
    return True


def points(alias: str) -> bool:
    """Whether MLflow moves the alias, and takes the tag that records it."""
    key = f"kubetune.promoted.{alias}.{UID}"
    try:
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
        _validate_tag_name(key)
        _validate_length_limit("key", MAX_MODEL_REGISTRY_TAG_KEY_LENGTH, key)
    except MlflowException:
        return False
    return True


NAMES = (
    "tickets",
    "a b",
    ".",
    "..",
    "...",
    "..a",
    ".a",
    "a/b",
    "a:b",
    " ",
    "\u3000",
    "\t",
    "é",
    "a.",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_as_mlflow_takes_them(name: str) -> None:
    assert is_taken("name", name) is registers(name)
    assert is_taken("name", f"{name}'\"") is False, "no search finds it"


@pytest.mark.parametrize(
    "alias", ["v1", "V12", "latest", "Latest", "LATEST", "v", "v1a", "va1", "latest1", "champion"]
)
def test_reserved_aliases_are_refused(alias: str) -> None:
    assert is_taken("alias", alias) is points(alias)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=210))
def test_whatever_is_taken_mlflow_takes(text: str) -> None:
    assert not is_taken("name", text) or registers(text)
    assert not is_taken("alias", text) or points(text)


@pytest.mark.parametrize("length", [189, 190, 191, 200])
def test_long_aliases_leave_room_for_the_record_of_a_move(length: int) -> None:
    assert not is_taken("alias", "a" * length) or points("a" * length)
