"""Two operators of which one acts, and what ends them: a crash, an order, a pause."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path

from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

LEASE_SECONDS = 4.0
SETTLE_SECONDS = 10.0
CLIENT_SECONDS = 5
"""That the operators wait for an answer of CML."""
ENVIRONMENT = {
    "KUBETUNE_LEASE_SECONDS": str(LEASE_SECONDS),
    "KUBETUNE_CML_SETTLE_SECONDS": str(SETTLE_SECONDS),
    "KUBETUNE_CML_TIMEOUT_SECONDS": str(CLIENT_SECONDS),
}
NUMBERS = re.compile(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b")
BROKEN = re.compile(r"^\w[\w.]*(?:Error|Exception)\b.*", re.MULTILINE)


class Replica:
    """One of the operators; started again whenever it has ended, as a Deployment does."""

    def __init__(self, cluster: LocalCluster, folder: Path, packages: Path) -> None:
        self.operator = Operator(cluster, folder)
        self._environment = {"PYTHONPATH": str(packages), **ENVIRONMENT}
        self._begun = 0
        self.ends: Counter[str] = Counter()
        """By what it says, how often it has ended by itself."""

    def tend(self) -> None:
        """Start it when it doesn't run."""
        if not self.operator.ended():
            return
        if self._begun and (last := self._last_words()):
            self.ends[last] += 1
        self._begun = self.operator.log_size() + 1
        self.operator.start(environment=self._environment)

    def kill(self) -> None:
        """As a crash."""
        self.operator.kill()
        self._begun = 0

    def order(self) -> None:
        """As an update does. One that doesn't end in time is an error."""
        self.operator.stop()
        self._begun = 0

    def leads(self) -> bool:
        """Whether it acts; False where it doesn't answer."""
        try:
            return not self.operator.ended() and self.operator.leads()
        except (OSError, ValueError):
            return False

    def unexpected(self) -> Counter[str]:
        """What it could not reconcile, by the errors in its log."""
        found: Counter[str] = Counter()
        for part in self.operator.log_since(0).split("can't be reconciled\n")[1:]:
            error = BROKEN.search(part.partition("\n20")[0])
            found[NUMBERS.sub("#", error[0][:160]) if error else "?"] += 1
        return found

    def _last_words(self) -> str:
        lines = [line for line in self.operator.log_since(self._begun).splitlines() if line]
        return NUMBERS.sub("#", lines[-1][:160]) if lines else "nothing"


@contextlib.contextmanager
def replicas(
    cluster: LocalCluster, folder: Path, packages: Path, number: int = 2
) -> Generator[list[Replica]]:
    """So many within the block; the first leads."""
    made: list[Replica] = []
    try:
        for at in range(number):
            place = folder / f"replica-{at}"
            place.mkdir(parents=True)
            made.append(Replica(cluster, place, packages))
            made[-1].tend()
            eventually(made[0].leads)
        yield made
    finally:
        for replica in made:
            if not replica.operator.ended():
                with contextlib.suppress(ProcessLookupError):
                    replica.operator.go_on()
            replica.operator.stop()


def leader(found: list[Replica]) -> Replica | None:
    """The one that acts, if one does."""
    return next((each for each in found if each.leads()), None)
