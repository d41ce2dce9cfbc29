"""Workspaces that take requests and never answer hold up nobody who doesn't need them."""

import pytest
from kubetune.settings import Settings

from tests.cluster.operator_process import Operator
from tests.cluster.silent_server import SilentServer
from tests.cluster.support import eventually
from tests.cml.lives import succeeded
from tests.cml.space import TARGET, CmlSpace

pytestmark = pytest.mark.cluster

OPERATOR = {"KUBETUNE_CML_TIMEOUT_SECONDS": "3600"}
SILENT = 20


def test_silent_workspaces_hold_no_worker(cml_jobs: CmlSpace, cml_operator: Operator) -> None:
    assert Settings().workers < SILENT
    with SilentServer() as server:
        for at in range(SILENT):
            silent = cml_jobs.cml_target(url=f"{server.url}/w{at}")
            cml_jobs.create("ComputeTarget", f"silent-{at}", silent)
        eventually(lambda: len(set(server.asking.values())) == SILENT)
        asked = server.asking
        assert cml_operator.gauge("kubetune_reconciles_waiting_outside") >= SILENT
        cml_jobs.ready("ComputeTarget", TARGET)
        cml_jobs.scripts["ahead"] = succeeded()
        cml_jobs.job("ahead")
        cml_jobs.phase("ahead", "Succeeded")
        assert server.asking == asked, "all still wait for their answer"
