"""What is derived from the table of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from kubetune.api.kinds.table import BY_KIND, INSPECTED, KINDS, RECONCILED, RUNNING, Kind
from kubetune.api.schema.base import Value
from kubetune.api.schema.referenced import Reference

NAMED_ELSEWHERE = {"configMap", "fineTuneJob"}
"""Fields that name an object without being called a Ref."""
IN_THE_POD = {
    # The target's Secrets and certificates: needs.py holds them, secrets.py reads them.
    "ComputeTarget",
    "ClusterComputeTarget",
}


def fields(model: type[Value], path: str = "") -> Iterator[str]:
    """Paths of the fields below a model that name an object of the cluster, but for Secrets."""
    for name, field in model.model_fields.items():
        alias = field.alias or name
        for inner, is_list in values(field.annotation):
            here = f"{path}{alias}{'[]' if is_list else ''}"
            named = alias.endswith("Ref") and "Secret" not in alias and "secret" not in alias
            if named or alias in NAMED_ELSEWHERE:
                yield here
            else:
                yield from fields(inner, f"{here}.")


def values(annotation: Any, is_list: bool = False) -> Iterator[tuple[type[Value], bool]]:
    """The models that a field may hold, and whether as items of a list."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        for argument in get_args(annotation):
            yield from values(argument, is_list)
    elif origin is not None:
        for argument in get_args(annotation):
            yield from values(argument, True)
    elif isinstance(annotation, type) and issubclass(annotation, Value):
        yield annotation, is_list


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_each_field_that_names_an_object_is_declared(kind: Kind) -> None:
    declared = {reference.path for reference in kind.spec.references}
    named: set[str] = set() if kind.kind in IN_THE_POD else set(fields(kind.spec))
    if kind.kind == "PromptTemplate":
        # It can't name a target: its samples are made on the default one.
        named.add("computeTargetRef")
    # The name of what a job makes is not called a reference.
    assert declared - {"output.modelName"} == named


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_what_is_named_is_a_kind_that_is_watched(kind: Kind) -> None:
    assert {reference.kind for reference in kind.spec.references} <= BY_KIND.keys() | {"ConfigMap"}


def test_a_reference_is_read_from_the_text() -> None:
    spec = {"tasks": [{"configMapRef": {"name": "a"}}, {}, {"configMapRef": {"name": "b"}}]}
    tasks = Reference("tasks[].configMapRef", "ConfigMap")
    assert list(tasks.named_in(spec)) == [("ConfigMap", "a"), ("ConfigMap", "b")]
    assert list(Reference("output.modelName", "Model").named_in({"output": {}})) == []
    given = {"profileRef": {"kind": "ClusterTuningProfile", "name": "x"}}
    profile = Reference("profileRef", "TuningProfile")
    assert list(profile.named_in(given)) == [("ClusterTuningProfile", "x")]


def test_profiles_are_only_read() -> None:
    assert BY_KIND.keys() - RECONCILED == {"TuningProfile", "ClusterTuningProfile"}
    assert INSPECTED < RUNNING < RECONCILED
