"""The generated client and the stand-in, for all tests of CML."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cml import client_package
from tests.cml.server import ManualClock, StandIn


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
