"""Operators after each other: one halts at a write, the next goes on, then the first wakes up."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubetune_devcluster.cluster import LocalCluster

from tests.chaos.storm.counting import count, left_over
from tests.chaos.storm.courses import Course, Life, Place
from tests.chaos.storm.storm import Storm
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

HALTING = (sys.executable, str(Path(__file__).with_name("halting_operator.py")))
HALTED = "halted"
DID_NOT_COME = "this write did not come"
"""As that of a look at the target, which another had just before."""
MOMENTS = ("before", "sent", "after")
TAKES_BACK = re.compile("model-versions/delete|cml (stop_job_run|delete_job)")
"""What may be sent without the lease: only what was made too much."""
ENVIRONMENT = {
    "KUBETUNE_LEASE_SECONDS": "3",
    "KUBETUNE_CML_SETTLE_SECONDS": "3",
    "KUBETUNE_CML_TIMEOUT_SECONDS": "5",
}


@dataclass(frozen=True)
class Halt:
    """A write of a job's life, and the moment at which the operator is paused."""

    life: Life
    write: str
    moment: str

    def __str__(self) -> str:
        return f"{self.life}: {self.moment} {self.write}"


class Halting:
    """An operator that may halt, and what it has sent."""

    def __init__(self, cluster: LocalCluster, folder: Path, packages: Path) -> None:
        folder.mkdir()
        self.operator = Operator(cluster, folder)
        self._packages = packages
        self._log = folder / "sent"

    def start(self, halt: Halt | None) -> None:
        """Start it; it halts nowhere until it is armed."""
        place = {"HALT_AT": halt.write, "HALT_WHEN": halt.moment} if halt else {}
        environment = {**ENVIRONMENT, "PYTHONPATH": str(self._packages)}
        self.operator.start(HALTING, {**environment, **place, "HALT_LOG": str(self._log)})

    def arm(self) -> None:
        """Let its writes count from now on."""
        self._log.with_name(self._log.name + ".armed").touch()

    def sent(self) -> list[str]:
        """The writes that it has sent since then, and its halt."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def sent_late(self) -> list[str]:
        """What it has sent after it was halted."""
        sent = self.sent()
        return sent[sent.index(HALTED) + 1 :] if HALTED in sent else []


class Succession:
    """Of two operators one leads and is to halt, the other is to go on."""

    def __init__(self, storm: Storm, folder: Path, packages: Path, place: Place) -> None:
        self.storm, self.place = storm, place
        self._folder, self._packages = folder, packages
        self._made = 0
        self.all: list[Halting] = []

    @contextlib.contextmanager
    def ended(self) -> Generator[Succession]:
        """All operators are ended after the block."""
        try:
            yield self
        finally:
            for each in self.all:
                if not each.operator.ended():
                    each.operator.go_on()
                each.operator.stop()

    def next(self, halt: Halt | None) -> Halting:
        """One more operator, which waits for the lease when another has it."""
        made = Halting(
            self.storm.cluster, self._folder / f"operator-{len(self.all)}", self._packages
        )
        self.all.append(made)
        made.start(halt)
        return made

    def writes(self, life: Life) -> list[str]:
        """What an operator writes in the life of a job that nothing disturbs."""
        alone = self.next(None)
        eventually(alone.operator.leads)
        alone.arm()
        course = self._begin(life)
        self._go_on(lambda: self._is_over(course))
        alone.operator.stop()
        self.storm.courses.remove(course)
        return alone.sent()

    def handed_over(self, halts: Sequence[Halt]) -> dict[str, list[str]]:
        """What was wrong after each halt."""
        found: dict[str, list[str]] = {}
        leading = self.next(halts[0])
        eventually(leading.operator.leads)
        for halt, after in zip(halts, [*halts[1:], None], strict=True):
            waiting = self.next(after)
            found[str(halt)] = self._handed_over(halt, leading, waiting)
            if not leading.operator.ended():
                leading.operator.stop()
            leading = waiting
            eventually(leading.operator.leads)
        return found

    def _handed_over(self, halt: Halt, leading: Halting, waiting: Halting) -> list[str]:
        leading.arm()
        course = self._begin(halt.life)
        self._go_on(lambda: leading.operator.halted() or self._is_over(course))
        if not leading.operator.halted():
            return [DID_NOT_COME]
        eventually(waiting.operator.leads)
        self._go_on(lambda: self._is_over(course))
        leading.operator.go_on()
        eventually(leading.operator.ended)
        late = leading.sent_late()
        if halt.moment == "sent":
            late = [each for each in late if each != halt.write and not TAKES_BACK.search(each)]
        wrong = [f"sent after the pause: {late}"] if late else []
        return wrong + self._wrong(course)

    def _wrong(self, course: Course) -> list[str]:
        """What is wrong with a job, and no more about it: it is left out from then on."""
        wrong = [each for counted in count(self.storm) for each in counted.wrong]
        self.storm.courses.remove(course)
        return wrong

    def _begin(self, life: Life) -> Course:
        self._made += 1
        return self.storm.add(self.place, f"{life}-{self._made}", life)

    def _is_over(self, course: Course) -> bool:
        return course.over and not left_over(self.storm)

    def _go_on(self, until: Callable[[], object]) -> None:
        def moved() -> object:
            self.storm.step()
            return until()

        eventually(moved, 90)
