"""What ``auto`` comes to: recomputation and batch, by the estimate, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NOW,
    attempt,
    job,
    model,
    observed_job,
    ready,
    resource,
    run,
    tried,
)
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.api.training.settings import Hyperparameters
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.memory.automatic import SPARE, Known, announced, settle
from kubetune.decide.memory.peak import memory, sizes_of
from kubetune.decide.settings.effective import effective_settings
from kubetune.targets.quantities import amount
from pydantic import ValidationError
from test_decide_estimate import SMOL, llama

EIGHT_BILLION = llama(hidden=4096, inner=14336, layers=32, heads=32)
NO_ROWS: Any = {}
AUTO: JsonObject = {"perDeviceBatchSize": "auto"}


def settled(
    resources: JsonObject,
    numbers: JsonObject | None = None,
    status: Any = EIGHT_BILLION,
    rows: int = 8,
    **known: Any,
) -> JsonObject:
    spec = {"resources": resources, "hyperparameters": {"maxLength": 2048} | (numbers or {})}
    settings = effective_settings(spec, None, None, 8192)
    facts: JsonObject = {"objective": "sft", "templated": False, "by_trl": True} | known
    return settle(settings, Known(status, NO_ROWS, **facts), rows)


def gpu(memory: str | None, count: int = 1) -> JsonObject:
    return {"gpu": count, "memory": "64Gi"} | ({"gpuMemory": memory} if memory else {})


BATCH_OF_4: JsonObject = {"perDeviceBatchSize": 4}


@pytest.mark.parametrize(
    ("resources", "numbers", "known", "chosen", "why"),
    [
        # An 8B LoRA of 4 x 2048 takes 21 GiB with and 61 GiB without: a card of 80 has both.
        (gpu("80Gi"), BATCH_OF_4, {}, False, "off: training without needs about 6"),
        (gpu("48Gi"), BATCH_OF_4, {}, True, "15% of resources.gpuMemory 48Gi shall stay free"),
        (gpu(None), BATCH_OF_4, {}, True, "on: resources.gpuMemory isn't stated"),
        (gpu("80Gi"), BATCH_OF_4, {"objective": "dpo"}, True, "objective dpo isn't estimated"),
        (gpu("80Gi"), BATCH_OF_4, {"status": {}}, True, "of this model aren't estimated"),
        (gpu("80Gi"), BATCH_OF_4, {"by_trl": False}, None, "only trainings by trl"),
        ({"memory": "8Gi"}, {}, {}, None, ""),
        ({"memory": "8Gi"}, {"gradientCheckpointing": "auto"}, {}, None, "off: no GPU is asked"),
        (gpu("80Gi"), {"gradientCheckpointing": True}, {}, True, ""),
        (gpu("16Gi"), {"gradientCheckpointing": False}, {}, False, ""),
    ],
)
def test_recomputation(
    resources: JsonObject, numbers: JsonObject, known: JsonObject, chosen: bool | None, why: str
) -> None:
    found = settled(resources, numbers, **known)
    assert found["hyperparameters"].get("gradientCheckpointing") == chosen
    told = (found.get("automatic") or {}).get("gradientCheckpointing", "")
    assert why in told
    assert bool(told) == bool(why)


@pytest.mark.parametrize(
    ("resources", "numbers", "known", "size", "accumulation", "recomputes"),
    [
        (gpu("80Gi"), AUTO, {}, 4, 2, False),
        (gpu("141Gi"), AUTO, {}, 8, 1, False),
        (gpu("48Gi"), AUTO, {}, 2, 4, False),
        # Nothing fits without recomputation.
        (gpu("24Gi"), AUTO, {}, 4, 2, True),
        # Not even the smallest, and it says so.
        (gpu("12Gi"), AUTO, {}, 1, 8, True),
        # What was accumulated may become one batch.
        (gpu("80Gi"), AUTO | {"gradientAccumulationSteps": 4, "maxLength": 256}, {}, 32, 1, False),
        (gpu("80Gi"), AUTO | {"gradientCheckpointing": True}, {}, 8, 1, True),
        (gpu(None), AUTO | {"gradientAccumulationSteps": 2}, {}, 8, 2, True),
        (gpu("80Gi"), AUTO, {"rows": 6}, 3, 2, False),
        ({"memory": "8Gi"}, AUTO | {"maxLength": 512}, {"status": SMOL}, 2, 4, None),
        ({"memory": "64Gi"}, AUTO, {"status": SMOL}, 4, 2, None),
        # Two processes share it.
        ({"memory": "64Gi", "cpu": "2", "processes": 2}, AUTO, {"status": SMOL}, 2, 4, None),
    ],
)
def test_batch(
    resources: JsonObject,
    numbers: JsonObject,
    known: JsonObject,
    size: int,
    accumulation: int,
    recomputes: bool | None,
) -> None:
    found = settled(resources, numbers, **known)
    chosen = found["hyperparameters"]
    assert (chosen["perDeviceBatchSize"], chosen["gradientAccumulationSteps"]) == (
        size,
        accumulation,
    ), found["automatic"]
    assert chosen.get("gradientCheckpointing") == recomputes
    assert found["automatic"]["perDeviceBatchSize"].startswith(str(size))


@given(
    limit=st.integers(10, 200),
    rows=st.integers(1, 64),
    accumulation=st.integers(1, 8),
    length=st.sampled_from([64, 512, 2048]),
)
def test_a_step_learns_from_as_many_rows_and_what_fits_keeps_its_distance(
    limit: int, rows: int, accumulation: int, length: int
) -> None:
    numbers = AUTO | {"gradientAccumulationSteps": accumulation, "maxLength": length}
    found = settled(gpu(f"{limit}Gi"), numbers, rows=rows)
    chosen = found["hyperparameters"]
    size = chosen["perDeviceBatchSize"]
    assert size * chosen["gradientAccumulationSteps"] == rows * accumulation
    sizes = sizes_of(EIGHT_BILLION)
    assert sizes
    peak = memory(sizes, found, length)
    assert peak
    space = (1 - SPARE) * float(amount(f"{limit}Gi"))
    if peak.total > space:
        assert (size, chosen["gradientCheckpointing"]) == (1, True), "nothing smaller is left"


def whole(spec: JsonObject, **fields: Any) -> Inputs:
    given = {"model": ready(model(), **EIGHT_BILLION)} | fields
    found = resolve(observed_job(job(spec), **given))
    assert isinstance(found, Inputs), found
    return found


def test_the_result_is_the_same_whatever_is_chosen() -> None:
    spec: JsonObject = {"hyperparameters": AUTO | {"maxLength": 2048}}
    digests = {
        whole(spec | {"resources": gpu(memory)}).plan.lineage_digest
        for memory in (None, "24Gi", "80Gi", "200Gi")
    }
    declared = {"hyperparameters": {"perDeviceBatchSize": 8, "maxLength": 2048}}
    assert digests == {whole(declared).plan.lineage_digest}


def test_the_number_of_the_profile_is_what_auto_stands_for() -> None:
    given = resource("TuningProfile", "twelve", {"hyperparameters": {"perDeviceBatchSize": 12}})
    spec: JsonObject = {
        "hyperparameters": AUTO | {"maxLength": 64},
        "resources": gpu("200Gi"),
        "profileRef": {"name": given.name},
    }
    numbers = whole(spec, profile=given).settings["hyperparameters"]
    assert (numbers["perDeviceBatchSize"], numbers["gradientAccumulationSteps"]) == (12, 1)


def test_conditions_say_what_was_chosen() -> None:
    spec: JsonObject = {"resources": {"gpu": 1}}
    status = decide(observed_job(job(spec)), NOW).status or {}
    (condition,) = [item for item in status["conditions"] if item["type"] == "InputsReady"]
    assert condition["message"] == (
        "all inputs are there and fit; hyperparameters.gradientCheckpointing auto is on:"
        " resources.gpuMemory isn't stated"
    )
    assert status["effective"]["hyperparameters"]["gradientCheckpointing"] is True


def test_later_attempts_keep_what_the_first_had() -> None:
    spec: JsonObject = {"hyperparameters": AUTO | {"maxLength": 2048}}
    first = observed_job(
        job(spec | {"resources": gpu("24Gi")}), model=ready(model(), **EIGHT_BILLION)
    )
    inputs = resolve(first)
    assert isinstance(inputs, Inputs)
    status = tried(attempt(1, "Failed"), effective=inputs.settings, lineage=inputs.lineage)
    larger = job(spec | {"resources": gpu("200Gi")}, status=status)
    again = resolve(replace(first, job=larger))
    assert isinstance(again, Inputs)
    assert again.plan.training == inputs.plan.training
    assert again.settings["automatic"] == inputs.settings["automatic"]
    # With another number of workers training starts over.
    several = job(spec | {"resources": gpu("200Gi"), "workers": 2}, status=status)
    anew = resolve(replace(first, job=several))
    assert isinstance(anew, Inputs)
    assert anew.settings["hyperparameters"]["perDeviceBatchSize"] == 8
    # And so with another number of processes.
    pair = job(spec | {"resources": gpu("200Gi", 2)}, status=status)
    two = resolve(replace(first, job=pair))
    assert isinstance(two, Inputs)
    assert two.settings["hyperparameters"]["perDeviceBatchSize"] == 8


def test_what_was_chosen_is_halved_where_memory_runs_out() -> None:
    spec: JsonObject = {
        "hyperparameters": AUTO | {"maxLength": 2048},
        "onOutOfMemory": "HalveBatch",
        "resources": gpu("80Gi"),
    }
    there = {"model": ready(model(), **EIGHT_BILLION)}
    inputs = whole(spec)
    status = tried(attempt(1, "Running"), effective=inputs.settings, lineage=inputs.lineage)
    ended = run(1, "failed", reason="OutOfMemory", message="CUDA out of memory")
    told = decide(observed_job(job(spec, status=status), runs=[ended], **there), NOW).status or {}
    assert "with perDeviceBatchSize 2 and gradientAccumulationSteps 4" in str(told["conditions"])


def test_a_batch_of_one_that_auto_has_chosen_is_no_mistake_of_the_job() -> None:
    spec: JsonObject = {
        "hyperparameters": AUTO | {"maxLength": 2048},
        "onOutOfMemory": "HalveBatch",
        "resources": gpu("12Gi"),
    }
    settings = whole(spec).settings
    assert settings["hyperparameters"]["perDeviceBatchSize"] == 1
    assert settings["onOutOfMemory"] == "Retry"


@pytest.mark.parametrize("value", [0, 65537, "Auto", "8", True, 1.5, None])
def test_other_batches_are_refused_by_name(value: Any) -> None:
    if value is None:
        assert Hyperparameters.model_validate({"perDeviceBatchSize": None}).to_json() == {}
        return
    with pytest.raises(ValidationError, match="must be auto or an integer from 1 to 65536, not"):
        Hyperparameters.model_validate({"perDeviceBatchSize": value})


@pytest.mark.parametrize("value", ["on", 1, "true"])
def test_other_switches_are_refused_by_name(value: Any) -> None:
    with pytest.raises(ValidationError, match="must be auto, true or false, not"):
        Hyperparameters.model_validate({"gradientCheckpointing": value})


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({}, []),
        ({"resources": {"gpu": 1}}, ["auto: off where training without leaves 15% of resources"
                                     ".gpuMemory free, if target or profile states"]),
        ({"resources": gpu("80Gi")}, ["leaves 15% of resources.gpuMemory 80Gi free, else on"]),
        ({"hyperparameters": {"gradientCheckpointing": "auto"}}, ["auto: off, no GPU is asked"]),
        ({"hyperparameters": AUTO}, ["the largest that leaves 15% of resources.memory free"]),
        ({"resources": gpu("80Gi"), "hyperparameters": {"gradientCheckpointing": False}}, []),
    ],
)  # fmt: skip
def test_the_command_line_says_what_auto_will_do(spec: JsonObject, told: list[str]) -> None:
    found = announced(spec)
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True)), found
