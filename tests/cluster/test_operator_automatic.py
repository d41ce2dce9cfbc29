"""``auto`` in hyperparameters: what it comes to is in status and plan before a job starts."""

import json

import pytest
from kubetune.api import JsonObject

from tests.cluster.namespace import Namespace, condition
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster


def submitted(jobs: Namespace, name: str) -> tuple[JsonObject, JsonObject]:
    """The job once its inputs fit, and the hyperparameters of its plan."""
    body = jobs.until(
        "FineTuneJob",
        name,
        lambda o: condition(o, "InputsReady")[0] == "True" and "external" in o["status"],
    )
    (plan,) = eventually(lambda: jobs.children("ConfigMap", name))
    return body, json.loads(plan["data"]["plan.json"])["training"]["hyperparameters"]


def test_a_batch_by_the_estimate_keeps_the_rows_of_a_step(jobs: Namespace) -> None:
    numbers = {"maxSteps": 1, "perDeviceBatchSize": "auto", "gradientAccumulationSteps": 4}
    jobs.job("batch", hyperparameters=numbers, resources={"memory": "8Gi"})
    body, planned = submitted(jobs, "batch")
    effective = body["status"]["effective"]
    # The model is tiny: what would have been accumulated fits at once.
    assert (planned["perDeviceBatchSize"], planned["gradientAccumulationSteps"]) == (32, 1)
    assert effective["hyperparameters"]["perDeviceBatchSize"] == 32
    assert body["status"]["estimate"]["rowsPerStep"] == 32
    said = condition(body, "InputsReady")[2]
    assert "perDeviceBatchSize auto is 32: training needs about" in said
    # Whoever asks for the same in numbers gets the result of this.
    jobs.job("numbers", hyperparameters=numbers | {"perDeviceBatchSize": 8})
    same, _ = submitted(jobs, "numbers")
    assert same["status"]["lineage"]["digest"] == body["status"]["lineage"]["digest"]


def test_recomputation_is_off_where_memory_is_known_to_be_enough(jobs: Namespace) -> None:
    """No node here has a GPU: the jobs wait for one, with all that is chosen in their plans."""
    for name, memory in (("known", {"gpuMemory": "80Gi"}), ("unknown", {})):
        jobs.job(name, resources={"gpu": 1} | memory)
    known, planned = submitted(jobs, "known")
    assert planned["gradientCheckpointing"] is False
    assert known["status"]["effective"]["hyperparameters"]["gradientCheckpointing"] is False
    assert "of resources.gpuMemory 80Gi" in condition(known, "InputsReady")[2]
    unknown, planned = submitted(jobs, "unknown")
    assert planned["gradientCheckpointing"] is True
    assert condition(unknown, "InputsReady")[2].endswith(
        "gradientCheckpointing auto is on: resources.gpuMemory isn't stated"
    )
    assert known["status"]["lineage"]["digest"] == unknown["status"]["lineage"]["digest"]
    for name in ("known", "unknown"):
        jobs.delete("FineTuneJob", name)
