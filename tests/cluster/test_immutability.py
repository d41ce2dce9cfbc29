"""Which fields of a FineTuneJob can be changed, added and removed after its creation."""

import itertools
from typing import Any

import pytest
from api_client import ApiClient, collection, create, spec_schema
from kubetune.api.kinds.table import BY_KIND
from kubetune.api.training.objectives import OBJECTIVES

pytestmark = pytest.mark.cluster

Spec = dict[str, Any]

JOB: Spec = {"modelRef": {"name": "base"}, "datasetRef": {"name": "tickets"}}

_numbers = itertools.count()


# Field -> two values that differ.
FROZEN: dict[str, tuple[Any, Any]] = {
    "modelRef": ({"name": "a"}, {"name": "b"}),
    "continueFrom": ("adapter", "merged"),
    "datasetRef": ({"name": "a"}, {"name": "b"}),
    "promptRef": ({"name": "a"}, {"name": "b"}),
    "profileRef": ({"name": "a"}, {"kind": "ClusterTuningProfile", "name": "a"}),
    "computeTargetRef": ({"name": "a"}, {"kind": "ClusterComputeTarget", "name": "a"}),
    "objective": ("sft", "reward"),
    "dpo": ({"beta": 0.1}, {"beta": 0.2}),
    "kto": ({"beta": 0.1}, {"beta": 0.2}),
    "reward": ({}, {"centerRewardsCoefficient": 0.1}),
    "method": ({"type": "lora"}, {"type": "full"}),
    "data": ({"fraction": 0.5}, {"fraction": 0.5, "seed": 1}),
    "tokenizer": ({"chatTemplate": "plain"}, {"padToken": "<pad>"}),
    "hyperparameters": ({"epochs": 1}, {"epochs": 2}),
    "trainer": (
        {"trl": {"arguments": {"adam_beta1": 0.8}}},
        {"trl": {"arguments": {"adam_beta2": 0.8}}},
    ),
    "evaluation": ({"maxRows": 1}, {}),
    "strategy": ("ddp", "fsdp2"),
    "checkpoint": ({"keep": 1}, {"keep": 2}),
    "progressDeadlineSeconds": (60, 120),
    "backoffLimit": (0, 1),
    "onOutOfMemory": ("Retry", "HalveBatch"),
    "output": ({"modelName": "a"}, {"modelName": "b"}),
    "reuse": ("IfIdentical", "Never"),
}
CHANGEABLE: dict[str, tuple[Any, Any]] = {
    "suspend": (True, False),
    "ttlSecondsAfterFinished": (0, 60),
    "activeDeadlineSeconds": (60, 1),
    "waitingDeadlineSeconds": (60, 1),
    "queueDeadlineSeconds": (60, 1),
    "deletionPolicy": ("Delete", "Orphan"),
    "estimate": ({"whenTooLarge": "Refuse"}, {"whenTooLarge": "Warn"}),
}
SUSPENDED: dict[str, tuple[Any, Any]] = {
    "resources": ({"cpu": "1"}, {"cpu": "2", "gpu": 1}),
    "workers": (1, 2),
}
REQUIRED = ("modelRef", "datasetRef")
# Removed, they get their default again.
WITH_DEFAULT = ("objective", "reuse", "suspend", "deletionPolicy")


def update(api: ApiClient, name: str, before: Spec, after: Spec) -> tuple[int, str]:
    """Create a job and replace its spec, whatever the operator writes meanwhile."""
    kind = BY_KIND["FineTuneJob"]
    assert create(api, "FineTuneJob", before, name, dry_run=False) == (201, "")
    path = f"{collection(kind)}/{name}"
    replace = [{"op": "replace", "path": "/spec", "value": after}]
    status, answer = api.request("PATCH", path, replace, "application/json-patch+json")
    api.request("DELETE", path)
    return status, answer.get("message", "")


def changes(field: str, values: tuple[Any, Any]) -> dict[str, tuple[Spec, Spec]]:
    own = {"objective": field} if field in OBJECTIVES else {}
    first, second = ({**JOB, **own, field: value} for value in values)
    without = {key: value for key, value in {**JOB, **own}.items() if key != field}
    cases = {"change": (first, second)}
    if field not in (*REQUIRED, *WITH_DEFAULT):
        cases |= {"add": (without, first), "remove": (first, without)}
    return cases


def update_cases(table: dict[str, tuple[Any, Any]]) -> list[Any]:
    return [
        pytest.param(field, before, after, id=f"{field}-{how}")
        for field, values in table.items()
        for how, (before, after) in changes(field, values).items()
    ]


def test_every_field_of_a_job_is_frozen_or_changeable() -> None:
    fields = spec_schema(BY_KIND["FineTuneJob"])["properties"].keys()
    assert fields == {*FROZEN, *CHANGEABLE, *SUSPENDED}


@pytest.mark.parametrize(("field", "before", "after"), update_cases(FROZEN))
def test_frozen(api: ApiClient, field: str, before: Spec, after: Spec) -> None:
    status, answer = update(api, f"job-{next(_numbers)}", before, after)
    assert status == 422, answer
    assert f"{field} can't be changed; make a new job" in answer


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"gradientCheckpointing": True}, {"gradientCheckpointing": "auto"}),
        ({"gradientCheckpointing": False}, {"gradientCheckpointing": True}),
        ({"gradientCheckpointing": "auto"}, {}),
        ({"perDeviceBatchSize": "auto"}, {"perDeviceBatchSize": 8}),
    ],
)
def test_fields_of_two_types_are_frozen_too(api: ApiClient, before: Spec, after: Spec) -> None:
    """The API server's rules see values without a type as they are."""
    old, new = ({**JOB, "hyperparameters": {"seed": 1} | given} for given in (before, after))
    status, answer = update(api, f"job-{next(_numbers)}", old, new)
    assert status == 422, answer
    assert "hyperparameters can't be changed" in answer


@pytest.mark.parametrize(("field", "before", "after"), update_cases(CHANGEABLE))
def test_changeable(api: ApiClient, field: str, before: Spec, after: Spec) -> None:
    assert update(api, f"job-{next(_numbers)}", before, after) == (200, "")


@pytest.mark.parametrize(("_", "before", "after"), update_cases(SUSPENDED))
def test_some_change_only_while_suspended(
    api: ApiClient, _: str, before: Spec, after: Spec
) -> None:
    for suspended, then, expected in (
        (False, False, 422),
        (False, True, 422),
        (True, True, 200),
        (True, False, 200),
    ):
        name = f"job-{next(_numbers)}"
        old, new = {**before, "suspend": suspended}, {**after, "suspend": then}
        status, answer = update(api, name, old, new)
        assert status == expected, (suspended, then, answer)
        if status == 422:
            assert "set suspend: true first" in answer
