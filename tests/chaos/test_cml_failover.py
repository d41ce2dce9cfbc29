"""The operator that takes over doubts a workspace's lists as one that has just been started."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.bad_days import finish_single, made, submit, unknown
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

SETTLE = 6.0
OPERATOR = {"KUBETUNE_CML_SETTLE_SECONDS": str(SETTLE)}


@pytest.fixture
def waiting(
    cluster: LocalCluster, cml_operator: Operator, cmlapi_path: Path, tmp_path: Path
) -> Iterator[Operator]:
    """A second operator, which waits for the lease, and has so for longer than it would doubt."""
    # The one of the test before has let go of the lease a moment ago.
    eventually(cml_operator.leads)
    operator = Operator(cluster, tmp_path)
    try:
        operator.start(environment={"PYTHONPATH": str(cmlapi_path), **OPERATOR})
        begun = time.monotonic()
        eventually(lambda: "this operator waits" in operator.log_since(0))
        eventually(lambda: time.monotonic() > begun + SETTLE + 1)
        yield operator
    finally:
        # Whatever happens: one that goes on holds the lease, and the session's operator waits.
        operator.stop()
        print(operator.log_since(0))


@pytest.mark.parametrize("operation", ["create_job", "create_job_run"])
def test_the_request_of_the_one_that_led_takes_effect_late(
    cml_jobs: CmlSpace,
    cml_operator: Operator,
    waiting: Operator,
    cmlapi_path: Path,
    operation: str,
) -> None:
    go = threading.Event()
    held = cml_jobs.simulator.faults.add(operation, hold=go)
    name = operation.replace("_", "-") + "-inherited"
    submit(cml_jobs, name)
    eventually(lambda: held.hits)
    with cml_operator.crashed():
        eventually(waiting.leads)
        unknown(cml_jobs, name)
        go.set()
        made(cml_jobs, name)
        finish_single(cml_jobs, [name])
