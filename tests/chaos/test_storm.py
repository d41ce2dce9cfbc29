"""The short form of the storm: each fault once, at a moment of its own, and the same counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.chaos.storm import table
from tests.chaos.storm.counting import count, left_over
from tests.chaos.storm.courses import Course, Life
from tests.chaos.storm.faults import Faults
from tests.chaos.storm.replicas import leader
from tests.chaos.storm.storm import Storm, storm
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

WAVES: list[tuple[str, str, Life]] = [
    ("crash", "key", Life.FAILS),
    ("ill", "create", Life.PLAIN),
    ("kube-apiserver", "over", Life.EVICTED),
    ("freeze", "running", Life.PAUSED),
    ("etcd", "over", Life.FAILS),
    ("away", "running", Life.DELETED),
    ("mlflow", "over", Life.PLAIN),
    ("order", "suspended", Life.PAUSED),
]
"""A fault, the stage that a job of its wave has reached then, and the life of the wave's jobs."""


@pytest.fixture
def stormy(
    cluster: LocalCluster,
    operator_process: Operator,
    cmlapi_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Storm]:
    """Two operators alone with the session's cluster, whose servers answer again in the end."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    operator_process.stop()
    with storm(cluster, tmp_path, cmlapi_path) as found:
        yield found
        for replica in found.replicas:
            print(replica.operator.log_since(0))


def strike(found: Storm, faults: Faults, fault: str) -> None:
    """Have it happen, until it is over; the operators go on meanwhile."""
    if fault in ("crash", "order", "freeze"):
        leading = eventually(lambda: leader(found.replicas), 60)
        strikes: dict[str, Callable[..., None]] = {
            "crash": faults.crash,
            "order": faults.order,
            "freeze": faults.freeze,
        }
        strikes[fault](leading)
    elif fault == "away":
        faults.workspace_away(1)
    elif fault == "ill":
        faults.workspace_ill("create_job", "no answer")
        faults.workspace_ill("create_job_run", "503 afterwards")
        faults.workspace_ill("list_job_runs", "late")
    else:
        faults.server(fault, 0)


def has_come(courses: list[Course], stage: str) -> bool:
    """Whether one of them is at a stage, or all are past it."""
    return any(course.stage == stage for course in courses) or all(each.over for each in courses)


def go_on(found: Storm, faults: Faults, share: float, until: Callable[[], bool]) -> None:
    """Move all jobs on until something holds; operators that have ended are started again."""

    def moved() -> bool:
        for replica in found.replicas:
            replica.tend()
        found.servers.tend()
        found.step(share)
        faults.look_for_a_leader()
        return until()

    eventually(moved, 120, interval=0.05)


def test_each_fault_at_its_moment(stormy: Storm) -> None:
    lives = [life for _, _, life in WAVES for _ in stormy.places]
    stormy.plan(lives)
    faults, width = Faults(stormy), len(stormy.places)
    for at, (fault, stage, _) in enumerate(WAVES):
        wave = stormy.courses[at * width : (at + 1) * width]
        share = (at + 1) / len(WAVES)
        go_on(stormy, faults, share, lambda wave=wave, stage=stage: has_come(wave, stage))
        strike(stormy, faults, fault)
    stormy.simulator.faults.clear()
    go_on(stormy, faults, 1, lambda: stormy.is_over() and not left_over(stormy))
    counts = count(stormy)
    print(table.counts(counts), table.outages(faults.tally.outages), sep="\n\n")
    assert [each for counted in counts for each in counted.wrong] == []
