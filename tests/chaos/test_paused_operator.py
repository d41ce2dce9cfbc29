"""An operator that was paused at a write, past its lease, changes nothing when it goes on.

On Kubernetes no effect is there twice. CML knows no fencing: one request that the operator had sent
in its own eyes may arrive late, and still there are never two runs of a job at one time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.chaos.storm.courses import Life
from tests.chaos.storm.storm import Storm, gathered
from tests.chaos.succession import DID_NOT_COME, MOMENTS, Halt, Succession
from tests.cluster.operator_process import Operator

pytestmark = pytest.mark.cluster

MAKING = {
    "kubernetes": ("POST jobs", "mlflow/model-versions/create", "registered-models/alias"),
    "cml": ("cml create_",),
}
"""Parts of the writes that make something and are tried each time; the long form has all."""
LIVES = (Life.PLAIN, Life.PAUSED, Life.DELETED)


@pytest.fixture
def gathering(
    operator_process: Operator,
    cluster: LocalCluster,
    cmlapi_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Storm]:
    """Namespaces with ready inputs, and no operator."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    environment = {"PYTHONPATH": str(cmlapi_path)}
    operator_process.start(environment=environment)
    with gathered(cluster, tmp_path) as storm:
        operator_process.stop()
        yield storm
        operator_process.start(environment=environment)


@pytest.fixture(params=MAKING)
def succession(
    request: pytest.FixtureRequest, gathering: Storm, cmlapi_path: Path, tmp_path: Path
) -> Iterator[Succession]:
    """Operators that are to halt, for jobs on a target."""
    (place,) = [place for place in gathering.places if place.name == request.param]
    with Succession(gathering, tmp_path, cmlapi_path, place).ended() as found:
        yield found
        for at, each in enumerate(found.all):
            print(f"--- operator {at}", each.operator.log_since(0), sep="\n")


def tried(succession: Succession, halts: list[Halt]) -> None:
    """Have an operator halt at each, and show what came of it."""
    found = succession.handed_over(halts)
    for halt, wrong in found.items():
        print(f"{halt}: {'; '.join(wrong) or 'well'}")
    missing = [halt for halt, wrong in found.items() if wrong == [DID_NOT_COME]]
    assert len(missing) <= len(halts) // 4, missing
    assert {halt: wrong for halt, wrong in found.items() if wrong and halt not in missing} == {}


@pytest.mark.exhaustive
def test_what_is_made_is_made_once(succession: Succession) -> None:
    """The writes that make something, by an operator that had asked for the lease just before."""
    writes = succession.writes(Life.PLAIN)
    parts = MAKING[succession.place.name]
    making = [write for write in writes if any(part in write for part in parts)]
    assert len(making) >= 2, writes
    tried(succession, [Halt(Life.PLAIN, write, "sent") for write in making])


def firsts(writes: list[str]) -> list[str]:
    """The first write of each kind, but for looks at the storage of the target."""
    return [write for write in writes if write.endswith(" #1") and "artifacts" not in write]


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("life", LIVES)
def test_at_every_write_and_moment(succession: Succession, life: Life) -> None:
    writes = firsts(succession.writes(life))
    if life != Life.PLAIN:
        plain = succession.writes(Life.PLAIN)
        writes = [write for write in writes if write not in plain]
    tried(succession, [Halt(life, write, moment) for write in writes for moment in MOMENTS])
