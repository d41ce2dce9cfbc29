"""The generated client and the simulator, for all tests of CML."""

import sys
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kubetune.tracking.cml import CmlTracker
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml import client_package
from kubetune_devcluster.cml.server import Behaviour, ManualClock, Simulator

from tests.cluster.operator_process import Operator
from tests.cml.space import CmlSpace
from tests.cml.tracked import Experiment, experiment_in, tracking


@pytest.fixture(scope="session")
def cmlapi_path() -> Path:
    """The folder with the generated ``cmlapi`` package, which is importable from now on."""
    folder = client_package.build()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """A running simulator whose runs follow scripts."""
    with Simulator(tmp_path / "cml") as simulator:
        yield simulator


@pytest.fixture
def clock(simulator: Simulator) -> ManualClock:
    """The simulator's clock, which only moves by hand."""
    clock = ManualClock()
    simulator.clock = clock
    return clock


@pytest.fixture
def client(cmlapi_path: Path, simulator: Simulator) -> Any:
    """The generated client with the simulator's key."""
    import cmlapi  # pyright: ignore[reportMissingImports]

    return cmlapi.default_client(simulator.url, simulator.api_key)


@pytest.fixture(scope="module")
def cml_operator(
    request: pytest.FixtureRequest, operator_process: Operator, cmlapi_path: Path
) -> Iterator[Operator]:
    """The session's operator, started anew with the generated package and with short times.

    A module's ``OPERATOR`` adds to its environment.
    """
    operator_process.start(
        environment={
            "PYTHONPATH": str(cmlapi_path),
            "KUBETUNE_CML_SETTLE_SECONDS": "5",
            **getattr(request.module, "OPERATOR", {}),
        }
    )
    yield operator_process
    operator_process.stop()


@pytest.fixture
def cml(cluster: LocalCluster, simulator: Simulator, cml_operator: Operator) -> Iterator[CmlSpace]:
    """A namespace whose jobs run in the simulator; what the operator logged is shown on failure."""
    offset = cml_operator.log_size()
    space = CmlSpace(cluster, simulator)
    yield space
    space.close()
    print(cml_operator.log_since(offset))


@pytest.fixture(scope="module")
def cml_module(
    cluster: LocalCluster, cml_operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CmlSpace]:
    """A namespace with ready inputs and a simulator of its own, for the jobs of a module.

    The simulator's clock is an hour behind and stands still: what ended there ended long ago, so
    the next attempt is due at once.
    """
    with Simulator(tmp_path_factory.mktemp("cml")) as simulator:
        space = CmlSpace(cluster, simulator)
        space.inputs()
        simulator.clock = ManualClock(time.time() - 3600)
        yield space
        space.close()


@pytest.fixture
def cml_jobs(cml_module: CmlSpace, cml_operator: Operator) -> Iterator[CmlSpace]:
    """The module's namespace; give each job a name of its own."""
    offset = cml_operator.log_size()
    yield cml_module
    cml_module.simulator.workspace.behaviour = Behaviour()
    cml_module.simulator.faults.clear()
    # A test that failed while it was away takes no other with it.
    cml_module.simulator.start()
    print(cml_operator.log_since(offset))


@pytest_asyncio.fixture
async def experiment(simulator: Simulator) -> AsyncGenerator[Experiment]:
    """An experiment of the simulator's project."""
    async with experiment_in(simulator) as experiment:
        yield experiment


@pytest_asyncio.fixture
async def tracker(simulator: Simulator) -> AsyncGenerator[CmlTracker]:
    """A tracker with the simulator's key."""
    async with tracking(simulator) as tracker:
        yield tracker
