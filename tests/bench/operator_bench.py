"""The operator's figures, in the order in which one cluster gives them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from kubetune.api.conditions import ConditionType
from kubetune.api.kinds.status_types import status_of
from kubetune.decide.decision import condition_is

from . import api_server_cost, cml_polling, failover, lives, submission, tenants, trust
from .control_plane import FLOORS, NAMESPACE, ControlPlane, control_plane, until
from .operator_process import OperatorProcess
from .report import Figure

IDLE_SECONDS = 60
CML_RUNS = 200
TRUSTED = 60
"""Jobs whose versions are signed."""
SCHEMA_OBJECTS = 1000
"""Objects of each definition whose writes are measured; the system counts CPU in 10 ms."""
READS = ("get", "list")
LIVING = frozenset({"lives", "idle", "restart"})
"""Measures of jobs that were submitted."""


class OperatorBench:
    """All measures on one cluster; ``folder`` is empty and temporary."""

    def __init__(
        self,
        folder: Path,
        jobs: int,
        paced: int,
        flood: int,
        profile: Path | None,
        say: Callable[[str], None],
        definitions: dict[str, Path] | None = None,
    ) -> None:
        self._definitions = definitions or {}
        self._folder = folder
        self._jobs = jobs
        self._paced = paced
        self._flood = flood
        self._profile = profile
        self._say = say
        self._figures: list[Figure] = []
        self._requests: Counter[tuple[str, str]] = Counter()
        """What the operator asked while jobs were submitted and lived."""

    async def run(self, measures: frozenset[str]) -> list[Figure]:
        """Measure these: submission, lives and what else has a name in ``__main__``."""
        self._say("starting a control plane")
        async with control_plane(self._folder) as plane:
            with_floor = "submission" in measures
            floors = [await self._floor(plane, FLOORS[0])] if with_floor else []
            if with_floor or measures & LIVING:
                submitted = await self._submit(plane)
                if with_floor:
                    floors.append(await self._floor(plane, FLOORS[1]))
                    self._add_submission(submitted, floors)
            if measures & LIVING:
                await self._live(plane, measures)
            if "restart" in measures:
                await self._restart(plane)
            if "cml" in measures:
                await self._measure_cml(plane)
            if "tenants" in measures:
                await self._measure_tenants(plane)
            if "trust" in measures:
                await self._measure_trust(plane)
            if "schema" in measures:
                await self._measure_schema(plane)
            if "failover" in measures:
                await self._measure_failover(plane)
        return self._figures

    async def _floor(self, plane: ControlPlane, namespace: str) -> submission.Submitted:
        if namespace == FLOORS[0]:
            # An operator makes the target ready, once.
            async with self._operator(plane, "target"):
                await until(lambda: _target_ready(plane), 60)
        self._say(f"floor: {self._jobs} submissions by a bare client")
        return await submission.floor(plane, namespace, self._jobs)

    async def _submit(self, plane: ControlPlane) -> submission.Submitted:
        self._say(f"operator: {self._jobs} submissions")
        async with self._operator(plane, "submission") as operator:
            await until(lambda: _target_ready(plane), 60)
            before = plane.audit_position()
            submitted = await submission.by_operator(plane, operator, self._jobs)
            self._requests += plane.requests_since(before)
            return submitted

    def _add_submission(
        self, submitted: submission.Submitted, floors: list[submission.Submitted]
    ) -> None:
        floor = sum(floor.wall for floor in floors) / len(floors)
        both = " and ".join(f"{floor.wall:.2f}" for floor in floors)
        note = f"{submitted.wall:.2f} s over floors of {both} s, {self._jobs} jobs"
        self._add("submission over floor", submitted.wall / floor, "", 1.3, note)
        cpu = 1000 * submitted.cpu / self._jobs
        bare = 1000 * sum(floor.cpu for floor in floors) / len(floors) / self._jobs
        # Milliseconds say as much of the machine as of the operator; the client tells them apart.
        note = f"{cpu / bare:.2f} times the {bare:.1f} ms of the bare client"
        self._add("operator CPU per submission", cpu, "ms", 6, note)

    async def _live(self, plane: ControlPlane, measures: frozenset[str]) -> None:
        async with self._operator(plane, "lives") as operator:
            jobs, before = await lives.batch_jobs(plane), plane.audit_position()
            names = sorted(jobs)
            slow, fast = names[: self._paced], names[self._paced :]
            self._say(f"{len(fast)} runs end at once")
            await lives.finish(plane, {name: jobs[name] for name in fast})
            await operator.idle()
            self._say(f"{len(slow)} runs live at 4 a second")
            times = await lives.reaction_times(plane, {name: jobs[name] for name in slow})
            await operator.idle()
            if "lives" in measures:
                self._requests += plane.requests_since(before)
                self._add_lives(times)
                self._add("operator memory", operator.rss_megabytes(), "MB", 200)
            if "idle" in measures:
                await self._idle(plane)

    def _add_lives(self, times: list[float]) -> None:
        half = 1000 * lives.percentile(times, 50)
        late = 1000 * lives.percentile(times, 99)
        note = f"median {half:.0f} ms, {len(times)} lives at 4 a second"
        self._add("Job Complete to status, p99", late, "ms", 60, note)
        writes = {key: count for key, count in self._requests.items() if key[0] not in READS}
        own = sum(count for (_, resource), count in writes.items() if "finetunejobs" in resource)
        note = f"the user's creation included; {_summary(writes)}"
        self._add("writes on a FineTuneJob", 1 + own / self._jobs, "", 8, note)
        self._add("writes for a FineTuneJob", 1 + sum(writes.values()) / self._jobs, "")

    async def _idle(self, plane: ControlPlane) -> None:
        self._say(f"{IDLE_SECONDS} s of silence")
        before = plane.audit_position()
        await asyncio.sleep(IDLE_SECONDS)
        requests = plane.requests_since(before)
        rate = sum(requests.values()) * 60 / IDLE_SECONDS
        self._add("idle requests per minute", rate, "", 2, _summary(requests))

    async def _restart(self, plane: ControlPlane) -> None:
        self._say("restart")
        before = plane.audit_position()
        async with self._operator(plane, "restart") as operator:
            self._add("restart", operator.cpu_seconds(), "CPU s", 3, f"{self._jobs} finished jobs")
            self._add("memory after restart", operator.rss_megabytes(), "MB", 200)
            requests = plane.requests_since(before)
            writes = {key: count for key, count in requests.items() if key[0] not in READS}
            self._add("writes of a restart", sum(writes.values()), "", 0, _summary(writes))

    async def _measure_cml(self, plane: ControlPlane) -> None:
        self._say(f"{CML_RUNS} active runs in CML")
        for figure in await cml_polling.measure(plane, self._folder, CML_RUNS):
            self._note(figure)

    async def _measure_tenants(self, plane: ControlPlane) -> None:
        self._say(f"a tenant beside one with {self._flood} objects")
        for figure in await tenants.measure(plane, self._folder, self._flood):
            self._note(figure)

    async def _measure_trust(self, plane: ControlPlane) -> None:
        self._say(f"{TRUSTED} jobs that register versions")
        for figure in await trust.measure(plane, self._folder, TRUSTED):
            self._note(figure)

    async def _measure_schema(self, plane: ControlPlane) -> None:
        self._say("writes with and without a schema")
        objects = min(self._jobs, SCHEMA_OBJECTS)
        for figure in await api_server_cost.measure(plane, objects, self._definitions):
            self._note(figure)

    async def _measure_failover(self, plane: ControlPlane) -> None:
        self._say(f"{failover.ROUNDS} crashes and as many orders to end, of two operators")
        for figure in await failover.measure(plane, self._folder):
            self._note(figure)

    def _operator(
        self, plane: ControlPlane, name: str
    ) -> AbstractAsyncContextManager[OperatorProcess]:
        profile = self._profile / f"{name}.prof" if self._profile else None
        log = self._folder / f"operator-{name}.log"
        return OperatorProcess(plane.operator_kubeconfig, log, NAMESPACE, profile=profile)

    def _add(
        self, name: str, value: float, unit: str, budget: float | None = None, note: str = ""
    ) -> None:
        self._note(Figure(name, value, unit, budget, note))

    def _note(self, figure: Figure) -> None:
        value = f"{figure.value:.3g} {figure.unit}"
        self._say(f"  {figure.name}: {value} {figure.verdict} {figure.note}")
        self._figures.append(figure)


async def _target_ready(plane: ControlPlane) -> bool:
    return condition_is(status_of(await plane.target()), ConditionType.READY)


def _summary(requests: dict[tuple[str, str], int]) -> str:
    return ", ".join(f"{count} {' '.join(key)}" for key, count in sorted(requests.items()))
