"""Everything around one schedule: the models, the operator, the clock and the story."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from kubetune import names
from kubetune.api import JsonObject
from kubetune.observe import objects

from tests.simulation.api_server import ApiServer, error
from tests.simulation.batches import halves
from tests.simulation.clock import EPOCH, VirtualLoop
from tests.simulation.cml_workspace import CmlWorkspace
from tests.simulation.definitions import Definitions
from tests.simulation.garbage import GarbageCollector, NamespaceController
from tests.simulation.jobs import JobController, Kubelet
from tests.simulation.ledger import Ledger
from tests.simulation.network import Trouble
from tests.simulation.operator_model import OperatorProcess
from tests.simulation.runs import Run, Script
from tests.simulation.tracker import TrackingServer
from tests.simulation.wall_clock import reset_clocks, set_clocks

SOON = (0.02, 0.1, 0.4, 1.5)
ENDS = ("succeed",) * 11 + ("silent", "fail", "fail", "fail", "refuse", "memory", "mute", "evict")
DURATIONS = (1.0, 5.0, 20.0, 60.0, 150.0, 400.0)


class World:
    """One world, from its beginning on; ``story`` collects what happens when it is a list."""

    def __init__(self, seed: int, *, story: list[str] | None = None) -> None:
        self.draw = random.Random(seed)
        self.story = story
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._failed)
        self.server = ApiServer(self.loop.now)
        self.ledger = Ledger(self)
        self.tracker = TrackingServer(self)
        self.cml = CmlWorkspace(self)
        self.garbage = GarbageCollector(self)
        self.namespaces = NamespaceController(self)
        self.definitions = Definitions(self)
        self.jobs = JobController(self)
        self.kubelet = Kubelet(self, self.jobs)
        self.operator: OperatorProcess | None = None
        self.troubles: list[Trouble] = []
        """Writes to the API server that will fail, in their order."""
        self.crash_after: int | None = None
        """The operator ends at the boundary of an effect after so many others."""
        self.restart_after: float | None = None
        """Seconds after a crash."""
        self.cut_off = False
        """Nothing of the operator reaches the API server."""
        self.refusals: dict[str, tuple[int, str, str]] = {}
        """What admission refuses, by kind: status, reason, message."""
        self.queue_holds = False
        """A queue suspends each new Job of a training."""
        self.scripts: list[Script] = []
        """What the next trainings will do; drawn when there is none left."""
        self.blind_until = 0.0
        """When the watches showed everything again."""
        self.disturbed_until = 0.0
        """When the operator could see and do everything again."""
        self._counts: Counter[str] = Counter()
        self.server.admission.append(self._admit)
        self._random = random.Random(seed)
        set_clocks(self.loop.now)
        # The only other chance in the operator: a run key's nonce.
        names.secrets = self  # type: ignore[assignment]
        random.seed(seed)

    # --- time

    def now_seconds(self) -> float:
        """Seconds since the beginning."""
        return self.loop.time()

    @staticmethod
    def seconds_of(timestamp: str) -> float:
        """A timestamp as seconds since the beginning."""
        return (datetime.fromisoformat(timestamp) - EPOCH).total_seconds()

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Have something happen in some seconds."""
        self.loop.call_later(seconds, action)

    def soon(self, action: Callable[[], object]) -> None:
        """Have a controller do something, when it gets to it."""
        self.loop.call_later(self.draw.choice(SOON), action)

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_for(seconds)

    # --- the operator

    def start_operator(self) -> None:
        """Start it, unless it runs."""
        if self.operator is None:
            self.tell("operator", "starts")
            self.operator = OperatorProcess(self)
            self.disturb()

    def crash(self) -> None:
        """End it at once."""
        if self.operator is not None:
            self.tell("operator", "crashes")
            self.operator.kill()
            self.operator = None
            self.disturb()
            if self.restart_after is not None:
                self.later(self.restart_after, self.start_operator)

    def disturb(self, seconds: float = 0.0) -> None:
        """Something keeps the operator from seeing or doing something, for so long."""
        self.disturbed_until = max(self.disturbed_until, self.now_seconds() + seconds)

    def operator_sees(self, within: float) -> bool:
        """Whether it has been up and undisturbed for so many seconds."""
        return self.operator is not None and self.now_seconds() > self.disturbed_until + within

    async def boundary(self, where: str) -> None:
        """Before or after an effect of the operator: it may end here."""
        if self.crash_after is None:
            return
        if self.crash_after > 0:
            self.crash_after -= 1
            return
        self.crash_after = None
        self.tell("operator", f"is about to crash, at the border of an effect on {where}")
        self.loop.call_soon(self.crash)
        await asyncio.Future[None]()

    # --- what the models ask

    def script(self, run: Run) -> Script:
        """What a run will do."""
        if run.purpose == "inspect":
            return Script(2.0, "succeed")
        if self.scripts:
            return self.scripts.pop(0)
        ends = (*ENDS, *["memory"] * len(ENDS)) if halves(self, run) else ENDS
        return Script(self.draw.choice(DURATIONS), self.draw.choice(ends))

    def plan_of(self, pod: JsonObject) -> JsonObject | None:
        """The plan that is mounted into a pod; None while its ConfigMap is missing."""
        name = next(
            volume["configMap"]["name"]
            for volume in pod["spec"]["volumes"]
            if volume["name"] == "plan"
        )
        config_map = self.server.find("ConfigMap", pod["metadata"]["namespace"], name)
        return json.loads(config_map["data"]["plan.json"]) if config_map else None

    def evict(self, pod_uid: str) -> None:
        """The node is drained, or another pod is more important."""
        key = self.server.uids.get(pod_uid)
        if key is not None:
            self.tell("cluster", f"evicts {key[2]}")
            self.kubelet.evict(self.server.objects[key])

    def count(self, what: str) -> int:
        """1, 2, 3 ... by what is counted."""
        self._counts[what] += 1
        return self._counts[what]

    def token_hex(self, length: int) -> str:
        """In place of the module secrets: the same seed makes the same keys."""
        return self._random.randbytes(length).hex()

    def _admit(self, verb: str, body: JsonObject) -> JsonObject:
        kind = body["kind"]
        if verb != "CREATE":
            return body
        if kind in self.refusals:
            raise error(*self.refusals[kind])
        if self.queue_holds and kind == "Job" and _purpose(body) == "train":
            return {**body, "spec": {**body["spec"], "suspend": True}}
        return body

    # --- the story

    def tell(self, who: str, what: str) -> None:
        """Note what happens."""
        if self.story is not None:
            self.story.append(f"{self.now_seconds():9.2f} s  {who:<10} {what}")

    def close(self) -> None:
        """The end of this world, which is no part of its story."""
        self.story = self.restart_after = None
        self.crash()
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.close()
        reset_clocks()
        names.secrets = secrets
        # Parsed specs are remembered by uid and generation, which other worlds have too.
        objects._lasting.cache_clear()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        problem = context.get("exception") or context["message"]
        if isinstance(problem, BaseException):
            raise problem
        raise RuntimeError(problem)


def _purpose(job: JsonObject) -> str:
    labels: JsonObject = job["metadata"].get("labels") or {}
    return str(labels.get(names.PURPOSE, ""))
