"""What is refused where several workers would train, and what they add to the memory."""

import pytest
from builders import NOW, job, observed_job, resource, target
from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
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
        ({"strategy": "fsdp2"}, {}, "set workers to 2 or more"),
        ({"strategy": "fsdp2"}, {"workers": 2, "method": {"type": "qlora"}}, "use ddp"),
        ({"objective": "dpo"}, {"workers": 2, "strategy": "fsdp2"}, "use ddp"),
        ({"objective": "dpo", "workers": 2}, {}, ""),
        ({"workers": 2, "resources": {"gpu": 1}}, {}, ""),
        ({"workers": 2, "resources": {"gpu": 4}}, {}, "set it to 1, and workers to 8"),
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
    profile = resource("TuningProfile", "house", {"method": {"type": "qlora"}})
    spec = {"profileRef": {"name": "house"}, "workers": 2, "strategy": "fsdp2"}
    status = decide(observed_job(job(spec), profile=profile, target=target()), NOW).status or {}
    stalled = next(found for found in status["conditions"] if found["type"] == "Stalled")
    assert stalled["status"] == "True"
    assert "fsdp2 can't shard the quantized weights" in stalled["message"]
