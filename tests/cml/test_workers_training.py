"""Two workers in a CML project, from the FineTuneJob to the registered version."""

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.support import eventually, process_of
from tests.cml.space import CmlSpace
from tests.cml.test_training import ALIASED, IN_CML, JOB, SECONDS, in_project, make

pytestmark = [pytest.mark.cluster, pytest.mark.training]

CHANGES = {
    "maxSteps: 20, loggingSteps: 5": "maxSteps: 100, loggingSteps: 1, perDeviceBatchSize: 2",
    "backoffLimit: 0": "workers: 2\n  checkpoint: {everySteps: 20}",
}


def test_two_workers_train_although_one_dies(cml: CmlSpace) -> None:
    in_project(cml)
    text = JOB
    for old, new in CHANGES.items():
        text = text.replace(old, new)
    make(cml, text, IN_CML, ALIASED)
    key = cml.run_key("router")
    seal = Path(".kubetune/runs") / key / f"kubetune/checkpoints/{key}/checkpoint-20/kubetune.json"
    eventually((cml.simulator.files() / seal).exists, SECONDS)
    os.kill(process_of(key, worker=1), signal.SIGKILL)
    status = cml.phase("router", "Succeeded", SECONDS)["status"]
    first, second = status["attempts"]
    assert (first["result"], second["result"]) == ("Failed", "Succeeded")
    assert first["message"].startswith("worker 1 of 2: "), first
    assert status["lineage"]["worldSize"] == 2
    assert status["result"]["registered"]["alias"] == "champion"
    # Workers are no runs of the job.
    assert len(cml.cml_runs("router")) == 2
