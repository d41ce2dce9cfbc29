"""What has happened, as the invariants ask for it, and those that hold at every moment."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubetune.api import JsonObject
from kubetune.api.conditions import TERMINAL_PHASES

from tests.simulation.batches import batch_problems

if TYPE_CHECKING:
    from tests.simulation.runs import Run
    from tests.simulation.world import World


VIOLATION = "VIOLATION"
"""What a line of a story that tells of one begins with."""
STOP_SECONDS = 90.0
"""What was ordered to stop has at least got its signal by then."""
DOUBLE_SECONDS = 300.0
"""So long may a double in CML live: until lists show it, and one sweep more."""
CLOCKS = {
    "waitTime": ("waitingDeadlineSeconds", "WaitedTooLong"),
    "queueTime": ("queueDeadlineSeconds", "QueuedTooLong"),
}
"""Clocks of a status, with the limit in spec and the reason of the verdict."""
SIGHT_SECONDS = 30.0
"""Whoever looks knows by then what has happened."""


@dataclass(frozen=True)
class Violation:
    """An invariant that doesn't hold."""

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


class Ledger:
    """Keeps the books of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self.runs: list[Run] = []
        self.requests = 0
        self.writes = 0
        self.reconciles = 0
        self.verdicts: dict[str, tuple[str, float]] = {}
        """Phase and time of the end of FineTuneJobs and Evaluations, by uid."""
        self.blind_verdicts: dict[str, bool] = {}
        """Whether watches didn't show everything as the end was decided."""
        self.secrets_changed_at = 0.0
        """When a Secret was made, changed or deleted last: nothing tells the operator of it."""
        self.let_go: set[str] = set()
        """Uids of objects whose runs were left alone on purpose."""
        self._live: dict[str, list[Run]] = defaultdict(list)
        self._since: dict[str, float] = {}
        """When the phase of an object changed last."""
        world.server.observers.append(self._seen)

    def violated(self, invariant: str, what: str) -> None:
        """Note a violation."""
        self._world.tell(VIOLATION, f"{invariant}: {what}")
        self.violations.append(Violation(invariant, what))

    def requested(self, method: str, path: str) -> None:
        """The operator asks the API server."""
        self.requests += 1
        self.writes += method != "GET"

    def run_started(self, run: Run) -> None:
        """A container of a run starts: no other of its object may live."""
        for what in batch_problems(self._world, run):
            self.violated("a step learns from what is declared", what)
        self.runs.append(run)
        # All attempts of a FineTuneJob are one; candidates of an Evaluation are not.
        whose = run.owner if run.purpose == "train" else run.run_key
        live = self._live[whose]
        for other in live:
            if run.outside and other.outside and run.run_key == other.run_key:
                # CML has no fencing: a second job of one run key is removed once it shows.
                self._world.later(DOUBLE_SECONDS, lambda other=other: self._one_ended(run, other))
            else:
                self.violated("at most one live run", f"{run.name} starts while {other.name} runs")
        live.append(run)

    def _one_ended(self, run: Run, other: Run) -> None:
        if run.ended is None and other.ended is None:
            self.violated("at most one live run", f"{run.name} still runs beside {other.name}")

    def run_ended(self, run: Run) -> None:
        """A container of a run has ended."""
        self._live[run.owner if run.purpose == "train" else run.run_key].remove(run)

    def live_runs(self, owner: str) -> list[Run]:
        """Containers of an object that run now."""
        return [run for runs in self._live.values() for run in runs if run.owner == owner]

    def _seen(self, event: str, body: JsonObject, old: JsonObject | None) -> None:
        if body["kind"] == "Secret":
            self.secrets_changed_at = self._world.now_seconds()
        if body["kind"] not in ("FineTuneJob", "Evaluation"):
            return
        uid = body["metadata"]["uid"]
        self._check_clocks(body, old)
        if event == "DELETED":
            self._world.later(STOP_SECONDS, lambda: self._nothing_runs(body, "gone"))
            return
        before: str = ((old or {}).get("status") or {}).get("phase", "")
        phase: str = (body.get("status") or {}).get("phase", "")
        if before == phase:
            return
        now = self._since[uid] = self._world.now_seconds()
        if before in TERMINAL_PHASES:
            self.violated(
                "finished stays finished",
                f"{body['kind']} {body['metadata']['name']} was {before} and is {phase or 'new'}",
            )
        if phase in TERMINAL_PHASES:
            self.verdicts[uid] = (phase, now)
            self.blind_verdicts[uid] = now < self._world.blind_until + SIGHT_SECONDS
        if phase in TERMINAL_PHASES or phase == "Suspended":

            def check() -> None:
                if self._since[uid] == now:
                    self._nothing_runs(body, phase)

            self._world.later(STOP_SECONDS, check)

    def _check_clocks(self, body: JsonObject, old: JsonObject | None) -> None:
        """One clock goes at a time and none is turned back; no verdict comes before its time."""
        name = f"{body['kind']} {body['metadata']['name']}"
        status: JsonObject = body.get("status") or {}
        before: JsonObject = (old or {}).get("status") or {}
        used = 0.0
        for clock, (limit, reason) in CLOCKS.items():
            told, known = status.get(clock) or {}, before.get(clock) or {}
            if told.get("seconds", 0) < known.get("seconds", 0):
                self.violated("clocks aren't turned back", f"{clock} of {name}: {known}, {told}")
            used += told.get("seconds", 0)
            if "since" in told:
                used += self._world.now_seconds() - self._world.seconds_of(told["since"])
            ended = _failed_with(status) == reason != _failed_with(before)
            if ended and told.get("seconds", 0) < body["spec"].get(limit, 0):
                self.violated("no verdict before its time", f"{name}: {reason} with {told}")
        made = body["metadata"].get("creationTimestamp")
        age = self._world.now_seconds() - self._world.seconds_of(made) if made else used
        if used > age + 1:
            self.violated("one clock goes at a time", f"{name} is {age:.0f} s old: {status}")

    def _nothing_runs(self, body: JsonObject, phase: str) -> None:
        """What says that nothing runs has nothing that runs untold to stop."""
        uid = body["metadata"]["uid"]
        orphans = phase == "gone" and body["spec"].get("deletionPolicy") == "Orphan"
        if orphans or uid in self.let_go or not self._world.operator_sees(STOP_SECONDS):
            return
        now = self._world.now_seconds()
        for run in self.live_runs(uid):
            if run.stopping_at is None and now - run.started > SIGHT_SECONDS:
                name = f"{body['kind']} {body['metadata']['name']}"
                self.violated(
                    "what says that nothing runs is right",
                    f"{name} is {phase}, and {run.name} runs since {run.started:.0f} s",
                )


def _failed_with(status: JsonObject) -> str:
    """Reason of condition Failed, empty without one."""
    found = (item for item in status.get("conditions") or () if item["type"] == "Failed")
    return str(next((item["reason"] for item in found), ""))
