"""The jobs of a storm, and how they are moved on, whatever is down."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml.server import Simulator

from tests.chaos.storm.courses import Course, Life, Place
from tests.chaos.storm.places import InCluster, InWorkspace
from tests.chaos.storm.record import Record
from tests.chaos.storm.registry import Registry
from tests.chaos.storm.replicas import Replica, replicas
from tests.chaos.storm.servers import Servers
from tests.cluster.namespace import Namespace
from tests.cml.space import CmlSpace

SHARES = {Life.PLAIN: 40, Life.FAILS: 20, Life.EVICTED: 12, Life.PAUSED: 14, Life.DELETED: 14}
SHARING = 5
"""Every so many plain jobs share one registered name."""
AT_ONCE = 20
"""Jobs that are under way on a target."""


@dataclass
class Storm:
    """Everything that takes part."""

    cluster: LocalCluster
    simulator: Simulator
    servers: Servers
    registry: Registry
    places: Sequence[Place]
    replicas: list[Replica] = field(default_factory=list[Replica])
    courses: list[Course] = field(default_factory=list[Course])

    def plan(self, lives: Sequence[Life]) -> None:
        """One job for each life, on the targets in turn."""
        shared = dict.fromkeys((place.name for place in self.places), 0)
        for number, life in enumerate(lives):
            place = self.places[number % len(self.places)]
            name = f"{life}-{number}"
            sharing = False
            if life == Life.PLAIN:
                sharing = shared[place.name] % SHARING == 0
                shared[place.name] += 1
            self.add(place, name, life, sharing=sharing)

    def add(self, place: Place, name: str, life: Life, *, sharing: bool = False) -> Course:
        """One more job, which has yet to begin."""
        registered = f"{place.space.namespace}-{'shared' if sharing else name}"
        course = Course(place, name, life, registered, sharing)
        self.courses.append(course)
        if isinstance(place, InWorkspace):
            place.courses[name] = course
        return course

    def step(self, begun: float = 1.0) -> None:
        """Move all jobs on; of those that wait so large a share may have begun."""
        for place in self.places:
            mine = [course for course in self.courses if course.place is place]
            under_way = [course for course in mine if course.began and not course.over]
            due = [course for course in mine if not course.began][: AT_ONCE - len(under_way)]
            allowed = round(begun * len(mine)) - sum(bool(course.began) for course in mine)
            for course in [*under_way, *due[: max(0, allowed)]]:
                course.step()

    def is_over(self) -> bool:
        """Whether nothing is left to happen."""
        return all(course.over for course in self.courses)


def drawn(jobs: int, chance: random.Random) -> list[Life]:
    """Lives of so many jobs."""
    return chance.choices(list(SHARES), list(SHARES.values()), k=jobs)


@contextlib.contextmanager
def storm(cluster: LocalCluster, folder: Path, packages: Path) -> Generator[Storm]:
    """Two operators, and what is gathered for them."""
    with (
        replicas(cluster, folder, packages) as found,
        gathered(cluster, folder) as storm,
    ):
        storm.replicas = found
        yield storm


@contextlib.contextmanager
def gathered(cluster: LocalCluster, folder: Path) -> Generator[Storm]:
    """A namespace for each target with ready inputs, and watches of all that is made.

    An operator must be there within the block; in the end all servers are there again.
    """
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(Simulator(folder / "cml"))
        here, there = Namespace(cluster), CmlSpace(cluster, simulator)
        servers = Servers(cluster)
        stack.callback(here.close)
        stack.callback(there.close)
        stack.callback(simulator.start)
        stack.callback(servers.revive)
        for space in (here, there):
            space.inputs()
        records = [stack.enter_context(Record(space).kept()) for space in (here, there)]
        registry = stack.enter_context(Registry(cluster).noting_moves())
        places = InCluster(here, records[0]), InWorkspace(there, records[1])
        yield Storm(cluster, simulator, servers, registry, places)
