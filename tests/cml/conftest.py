"""The generated client and the stand-in, for all tests of CML."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune.local.cluster import LocalCluster

from tests.cluster.operator_process import Operator
from tests.cml import client_package
from tests.cml.server import ManualClock, StandIn
from tests.cml.space import CmlSpace


@pytest.fixture(scope="session")
def cmlapi_path() -> Path:
    """The folder with the generated ``cmlapi`` package, which is importable from now on."""
    folder = client_package.build()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """A running stand-in whose runs follow scripts."""
    with StandIn(tmp_path / "cml") as stand_in:
        yield stand_in


@pytest.fixture
def clock(stand_in: StandIn) -> ManualClock:
    """The stand-in's clock, which only moves by hand."""
    clock = ManualClock()
    stand_in.clock = clock
    return clock


@pytest.fixture
def client(cmlapi_path: Path, stand_in: StandIn) -> Any:
    """The generated client with the stand-in's key."""
    import cmlapi  # pyright: ignore[reportMissingImports]

    return cmlapi.default_client(stand_in.url, stand_in.api_key)


@pytest.fixture(scope="module")
def cml_operator(operator_process: Operator, cmlapi_path: Path) -> Iterator[Operator]:
    """The session's operator, started anew with the generated package and with short times."""
    operator_process.start(
        environment={"PYTHONPATH": str(cmlapi_path), "KUBETUNE_CML_SETTLE_SECONDS": "5"}
    )
    yield operator_process
    operator_process.stop()


@pytest.fixture
def cml(cluster: LocalCluster, stand_in: StandIn, cml_operator: Operator) -> Iterator[CmlSpace]:
    """A namespace whose jobs run in the stand-in; what the operator logged is shown on failure."""
    offset = cml_operator.log_size()
    space = CmlSpace(cluster, stand_in)
    yield space
    space.close()
    print(cml_operator.log_since(offset))
