"""What happens to whom during a storm, how often, and how long it took until all was well again."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from kubetune_devcluster.cml.server import Simulator

from tests.chaos.storm.replicas import CLIENT_SECONDS, LEASE_SECONDS, Replica, leader
from tests.chaos.storm.servers import Servers
from tests.chaos.storm.storm import Storm

WRITES = ("create_job", "create_job_run", "stop_job_run", "delete_job", "upload_file")
READS = ("list_jobs", "list_job_runs", "get_job_run", "download_project_file")
ILLNESSES = ("503", "503 afterwards", "closed", "no answer", "late")
RECOVERY_SECONDS = 60.0
FREEZE = "operator: SIGSTOP, SIGCONT"


@dataclass
class Tally:
    """How often something happened, and the seconds of its longest outage."""

    outages: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict[str, list[float]](list)
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, fault: str, seconds: float) -> None:
        """It happened once more."""
        with self._lock:
            self.outages[fault].append(seconds)


class Faults:
    """Each fault, from its beginning until what it hit works again."""

    def __init__(self, storm: Storm) -> None:
        self.tally = Tally()
        self._replicas = storm.replicas
        self._servers: Servers = storm.servers
        self._simulator: Simulator = storm.simulator
        self._calm = threading.Event()
        self._unled: list[tuple[str, float]] = []
        """Faults of the one that led, and when, until another does."""

    def end(self) -> None:
        """Whoever waits for the end of a fault waits no more."""
        self._calm.set()

    @property
    def ended(self) -> bool:
        """Whether none may begin any more."""
        return self._calm.is_set()

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self._calm.wait(seconds)

    # --- operators

    def crash(self, replica: Replica, down: float = 0.0) -> None:
        """SIGKILL, and a new one after some time."""
        self._ended("operator: SIGKILL", replica, replica.kill, down)

    def order(self, replica: Replica, down: float = 0.0) -> None:
        """SIGTERM, and a new one after some time."""
        self._ended("operator: SIGTERM", replica, replica.order, down)

    def freeze(self, replica: Replica) -> None:
        """SIGSTOP until the lease has run out and another has it, if there is one, and SIGCONT."""
        if replica.operator.ended():
            return
        led = replica.leads()
        with replica.operator.paused():
            if led:
                self._unled.append((FREEZE, time.monotonic()))
                deadline = time.monotonic() + 4 * LEASE_SECONDS
                while not self._is_led() and time.monotonic() < deadline:
                    time.sleep(0.2)
            else:
                self.pause(1.5 * LEASE_SECONDS)
                self.tally.note(FREEZE, 0.0)

    def look_for_a_leader(self) -> None:
        """Note how long nobody led after a fault, once somebody does."""
        if self._unled and self._is_led():
            while self._unled:
                fault, begun = self._unled.pop()
                self.tally.note(fault, time.monotonic() - begun)

    def _ended(self, fault: str, replica: Replica, action: Callable[[], None], down: float) -> None:
        led = replica.leads()
        begun = time.monotonic()
        action()
        if led:
            self._unled.append((fault, begun))
        else:
            self.tally.note(fault, 0.0)
        self.pause(down)
        replica.tend()

    def _is_led(self) -> bool:
        return leader(self._replicas) is not None

    # --- servers

    def server(self, name: str, seconds: float) -> None:
        """SIGKILL, and a new one after some time."""
        begun = time.monotonic()
        self._servers.kill(name)
        self.pause(seconds)
        self._servers.start(name)
        self._recovered(f"{name}: SIGKILL", begun, lambda: self._servers.answers(name))

    def workspace_away(self, seconds: float) -> None:
        """The simulator serves nobody."""
        begun = time.monotonic()
        self._simulator.stop()
        self.pause(seconds)
        self._simulator.start()
        self.tally.note("CML: away", time.monotonic() - begun)

    def workspace_ill(self, operation: str, kind: str) -> None:
        """The next request of an operation fails before or after its effect, or is late."""
        faults = self._simulator.faults
        match kind:
            case "503":
                faults.add(operation, 2, status=503, html=True)
            case "503 afterwards":
                faults.add(operation, when="after", status=503)
            case "closed":
                faults.add(operation, close=True)
            case "no answer":
                # Longer than the client waits.
                faults.add(operation, when="after", hang=CLIENT_SECONDS + 2)
            case _:
                faults.add(operation, 2, hang=CLIENT_SECONDS / 2)
        self.tally.note(f"CML: {kind}", 0.0)

    def _recovered(self, fault: str, begun: float, well: Callable[[], bool]) -> None:
        while not well() and time.monotonic() < begun + RECOVERY_SECONDS:
            if self.ended:
                return
            self._servers.tend()
            time.sleep(0.1)
        self.tally.note(fault, time.monotonic() - begun)


class Weather(threading.Thread):
    """Draws faults by a seed, until the end of the storm; one for each replica, one for servers."""

    def __init__(
        self, faults: Faults, seed: str, between: tuple[float, float], replica: Replica | None
    ) -> None:
        super().__init__(name=f"weather {seed}", daemon=True)
        self._faults = faults
        self._chance = random.Random(seed)
        self._between = between
        self._replica = replica
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Let it storm."""
        try:
            while not self._faults.ended:
                self._faults.pause(self._chance.uniform(*self._between))
                if self._replica:
                    self._replica.tend()
                if not self._faults.ended:
                    self._strike()
        except BaseException as error:
            self.problem = error
            raise

    def _strike(self) -> None:
        faults, chance, replica = self._faults, self._chance, self._replica
        if replica:
            strike = chance.choices(("crash", "order", "freeze"), (5, 2, 2))[0]
            if strike == "freeze":
                faults.freeze(replica)
            elif strike == "order":
                faults.order(replica, chance.uniform(0, 2))
            else:
                faults.crash(replica, chance.uniform(0, 2))
            return
        seconds = chance.uniform(0.5, 5)
        match chance.choice(("kube-apiserver", "etcd", "mlflow", "away", "ill", "ill")):
            case "away":
                faults.workspace_away(seconds)
            case "ill":
                for operation in chance.sample([*WRITES, *READS], 4):
                    faults.workspace_ill(operation, chance.choice(ILLNESSES))
            case name:
                faults.server(name, seconds)
