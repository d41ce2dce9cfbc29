"""What is refused where several workers would train, and what they add to the memory."""

from typing import Any

import pytest
from builders import NOW, job, observed_job, resource, target
from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.status_types import AttemptCountsDict, FineTuneJobStatusDict
from kubetune.decide.fine_tune_job.inputs import Inputs, freeze, resolve
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.settings.effective import effective_settings
from kubetune.decide.settings.workers import workers_problem


@pytest.mark.parametrize(
    ("spec", "profile", "says"),
    [
        ({}, {}, ""),
        ({"workers": 2}, {}, ""),
        ({"workers": 2, "strategy": "fsdp2"}, {}, ""),
        ({"strategy": "fsdp2"}, {"workers": 2}, ""),
        ({}, {"strategy": "fsdp2"}, ""),
        ({"strategy": "fsdp2"}, {}, "set workers, resources.gpu or resources.processes to 2"),
        ({"strategy": "fsdp2", "resources": {"gpu": 2}}, {}, ""),
        ({"strategy": "fsdp2"}, {"resources": {"processes": 2}}, ""),
        ({"strategy": "fsdp2"}, {"workers": 2, "method": {"type": "qlora"}}, ""),
        (
            {"strategy": "fsdp2"},
            {"workers": 2, "method": {"type": "qlora", "quantization": {"bits": 8}}},
            "use ddp",
        ),
        ({"objective": "dpo"}, {"workers": 2, "strategy": "fsdp2"}, ""),
        ({"objective": "dpo", "workers": 2}, {}, ""),
        ({"workers": 2, "resources": {"gpu": 1}}, {}, ""),
        ({"workers": 2, "resources": {"gpu": 4}}, {}, ""),
        ({"workers": 2, "resources": {"gpu": 4, "cpu": "1"}}, {}, ""),
        ({"resources": {"processes": 3}}, {}, ""),
        ({"resources": {"processes": 3, "cpu": "3"}}, {}, ""),
        (
            {"resources": {"processes": 3, "cpu": "2"}},
            {},
            "resources.processes is 3 and resources.cpu is 2, and each process needs a CPU of its"
            " own: set cpu to 3, or lower processes",
        ),
        (
            {"resources": {"processes": 3}},
            {"resources": {"cpu": "2500m"}},
            "cpu is 2500m",
        ),
        (
            {"resources": {"processes": 3}},
            {"resources": {"gpu": 2}},
            "resources.processes is 3 and resources.gpu is 2",
        ),
        ({"resources": {"gpu": 4}}, {}, ""),
    ],
)
def test_settings(spec: JsonObject, profile: JsonObject, says: str) -> None:
    given = {"modelRef": {"name": "m"}, "datasetRef": {"name": "d"}} | spec
    settings = effective_settings(given, profile, None, None)
    parsed = FineTuneJobSpec.model_validate(given)
    problem = workers_problem(parsed, settings)
    assert bool(problem) == bool(says)
    assert says in problem


def test_a_job_waits_with_the_sentence() -> None:
    profile = resource(
        "TuningProfile", "house", {"method": {"type": "qlora", "quantization": {"bits": 8}}}
    )
    spec = {"profileRef": {"name": "house"}, "workers": 2, "strategy": "fsdp2"}
    status = decide(observed_job(job(spec), profile=profile, target=target()), NOW).status or {}
    stalled = next(found for found in status["conditions"] if found["type"] == "Stalled")
    assert stalled["status"] == "True"
    assert "fsdp2 can't shard weights of 8 bits" in stalled["message"]


@pytest.mark.parametrize(
    ("resources", "of_target", "cpu"),
    [
        ({}, None, "1"),
        ({"gpu": 8}, None, "8"),
        ({"processes": 3}, None, "3"),
        ({"processes": 3}, {"cpu": "6"}, "6"),
        ({"processes": 3, "cpu": "4"}, {"cpu": "6"}, "4"),
    ],
)
def test_each_process_has_a_cpu_unless_somebody_says_otherwise(
    resources: JsonObject, of_target: JsonObject | None, cpu: str
) -> None:
    spec = {"modelRef": {"name": "m"}, "datasetRef": {"name": "d"}, "resources": resources}
    assert effective_settings(spec, None, of_target, None)["resources"]["cpu"] == cpu


def shaped(workers: int, **resources: Any) -> ObservedJob:
    return observed_job(job({"workers": workers, "resources": resources}), target=target())


def test_the_plan_has_workers_and_their_processes() -> None:
    inputs = resolve(shaped(2, gpu=4))
    assert isinstance(inputs, Inputs)
    assert (inputs.plan.workers, inputs.plan.processes, inputs.plan.world_size) == (2, 4, 8)
    assert inputs.lineage.get("worldSize") == 8
    other = resolve(shaped(4, gpu=2))
    assert isinstance(other, Inputs)
    # Who computes where changes nothing in the result.
    assert other.lineage == inputs.lineage


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, {}), (1, {"processes": 2})), ((1, {"processes": 2}), (1, {"processes": 3}))],
)
def test_another_number_of_processes_takes_the_place_of_what_was_frozen(
    before: tuple[int, JsonObject], after: tuple[int, JsonObject]
) -> None:
    first, second = (resolve(shaped(workers, **given)) for workers, given in (before, after))
    assert isinstance(first, Inputs)
    assert isinstance(second, Inputs)
    status: FineTuneJobStatusDict = {
        "effective": first.settings,
        "lineage": {**first.lineage, "codeVersion": "older"},
    }
    counts: AttemptCountsDict = {"total": 1, "failed": 1, "preempted": 0}
    settings = freeze(status, counts, second)
    assert settings["workers"] == after[0]
    assert settings["resources"] == second.settings["resources"]
    assert status.get("lineage") == second.lineage
    kept: FineTuneJobStatusDict = {
        "effective": settings,
        "lineage": {**second.lineage, "codeVersion": "older"},
    }
    assert freeze(kept, counts, second) == settings
    assert kept.get("lineage", {}).get("codeVersion") == "older"
