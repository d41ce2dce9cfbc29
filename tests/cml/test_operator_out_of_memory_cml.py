"""The batch of an attempt in CML, whose job has one plan for all its runs."""

from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import ENV_BATCH, ENV_PLAN_DATA, decode_plan

from tests.cluster.namespace import condition
from tests.cml.lives import attempts, failed, succeeded
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

RAN_OUT = Outcome(status="failed", reason="OutOfMemory", message="too small", retryable=True)
KILLED: dict[str, Any] = {
    "oom_killed": True,
    "k8s_info": {"k8s_exit_code": 137, "k8s_reason": "OOMKilled"},
}


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_have_smaller_batches_of_one_job(cml_jobs: CmlSpace, workers: int) -> None:
    name = f"halved-{workers}"
    cml_jobs.scripts[name] = [failed(RAN_OUT), failed(**KILLED), succeeded()]
    cml_jobs.job(
        name,
        workers=workers,
        onOutOfMemory="HalveBatch",
        backoffLimit=0,
        hyperparameters={"maxSteps": 1, "perDeviceBatchSize": 4, "gradientAccumulationSteps": 3},
    )
    body = cml_jobs.phase(name, "Succeeded")
    assert attempts(body) == [
        ("Failed", "OutOfMemory"),
        ("Failed", "OutOfMemory"),
        ("Succeeded", "Trained"),
    ]
    told = [run.environment.get(ENV_BATCH) for run in cml_jobs.cml_runs(name)]
    assert told == [None, "2x6", "1x12"]
    known = [
        (item.get("perDeviceBatchSize"), item.get("gradientAccumulationSteps"))
        for item in body["status"]["attempts"]
    ]
    assert known == [(None, None), (2, 6), (1, 12)]
    lineage = body["status"]["lineage"]
    assert (lineage["perDeviceBatchSize"], lineage["gradientAccumulationSteps"]) == (1, 12)
    (job,) = cml_jobs.cml_jobs(name)
    numbers = decode_plan(job.environment[ENV_PLAN_DATA])["training"]["hyperparameters"]
    assert numbers["perDeviceBatchSize"] == 4
    assert cml_jobs.simulator.most_active(job.id) <= 1


def test_the_smallest_batch_is_the_last(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["smallest"] = failed(**KILLED)
    cml_jobs.job(
        "smallest",
        onOutOfMemory="HalveBatch",
        backoffLimit=9,
        hyperparameters={"maxSteps": 1, "perDeviceBatchSize": 2},
    )
    body = cml_jobs.phase("smallest", "Failed")
    told = [run.environment.get(ENV_BATCH) for run in cml_jobs.cml_runs("smallest")]
    assert told == [None, "1x2"]
    status, reason, message = condition(body, "Failed")
    assert (status, reason) == ("True", "OutOfMemory")
    assert "the smallest batch that can train" in message
