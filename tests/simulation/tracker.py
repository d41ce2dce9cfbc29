"""A model of a tracking server with a registry, and the tracker that the operator asks it with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubetune.api import JsonObject
from kubetune.api.run import plan as plans
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.api.run.vouched import with_codes
from kubetune.tracking.base import (
    AliasMove,
    RegisteredVersion,
    Registration,
    RunTest,
    StorageCheck,
    TrackedRun,
    TrackingError,
    VersionTest,
)

if TYPE_CHECKING:
    from tests.simulation.world import World


ANSWER_SECONDS = 0.01
PATIENCE_SECONDS = 5.0


@dataclass
class _Stored:
    run: TrackedRun
    experiment: str


class TrackingServer:
    """Runs, versions and aliases; ``trouble`` says how it misbehaves."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.trouble = ""
        """Empty, away, slow, refusing or lossy (does what it was asked, and doesn't answer)."""
        self.runs: dict[str, _Stored] = {}
        self.versions: dict[str, list[RegisteredVersion]] = {}
        self.aliases: dict[tuple[str, str], int] = {}

    def is_up(self) -> bool:
        """Whether runs reach it."""
        return self.trouble in ("", "slow", "lossy")

    # --- what runs do

    def open_run(self, run_key: str, experiment: str, attempt: int, plan: JsonObject) -> str:
        """The run of a key, made when there is none; it runs from now on."""
        told = {
            plans.TAG_ATTEMPT: str(attempt),
            plans.TAG_PHASE: "preparing",
            plans.TAG_PROGRESS: json.dumps({"attempt": attempt, plans.METRIC_STEP: 10}),
        }
        for run_id, stored in self.runs.items():
            if stored.run.run_key == run_key and stored.experiment == experiment:
                tags = stored.run.tags | told
                stored.run = replace(stored.run, status="RUNNING", tags=tags)
                return run_id
        run_id = f"r{len(self.runs) + 1}"
        tags = {plans.TAG_RUN_KEY: run_key, plans.TAG_TOTAL_STEPS: "100"} | told
        if plan["kind"] == "evaluate":
            tags[TAG_EVALUATION_DIGEST] = plan["digest"]
        run = TrackedRun(run_key, "1", run_id, "RUNNING", tags)
        self.runs[run_id] = _Stored(run, experiment)
        return run_id

    def keep_result(self, run_id: str, attempt: int, plan: JsonObject, summary: JsonObject) -> None:
        """A run has uploaded what it made."""
        stored = self.runs[run_id]
        if plan["kind"] == "evaluate":
            summary["runId"], summary["experimentId"] = run_id, "1"
            tags = {TAG_EVALUATION_SUMMARY: json.dumps(summary)}
        else:
            tags = {plans.TAG_MODEL_ID: summary["modelId"], plans.TAG_ATTEMPT: str(attempt)}
        tags = with_codes(plan["run"].get("reportKey"), tags)
        stored.run = replace(stored.run, tags=stored.run.tags | tags, metrics={"eval_loss": 0.5})
        self._world.tell("tracker", f"has the result of {run_id}")

    def close_run(self, run_id: str, succeeded: bool, plan: JsonObject) -> None:
        """A run has ended; when nobody hears of it, the run stays RUNNING."""
        if self.is_up():
            stored = self.runs[run_id]
            status = "FINISHED" if succeeded else "FAILED"
            phase = {plans.TAG_PHASE: "succeeded" if succeeded else "failed"}
            phase = with_codes(plan["run"].get("reportKey"), phase)
            stored.run = replace(stored.run, status=status, tags=stored.run.tags | phase)


class ModelTracker:
    """The operator's Tracker over the server; see kubetune.tracking.base."""

    def __init__(self, server: TrackingServer) -> None:
        self._server = server

    async def server_version(self) -> str:
        await self._ask()
        return "3.0"

    async def check_storage(self) -> StorageCheck:
        await self._ask()
        return StorageCheck(True, "artifacts can be written")

    async def running(self, install_id: str, experiments: Sequence[str]) -> list[TrackedRun]:
        await self._ask()
        return [
            stored.run
            for stored in self._server.runs.values()
            if stored.run.status == "RUNNING" and stored.experiment in experiments
        ]

    async def find_run(self, run_key: str, experiment: str) -> TrackedRun | None:
        await self._ask()
        for stored in self._server.runs.values():
            if stored.run.run_key == run_key and stored.experiment == experiment:
                return stored.run
        return None

    async def claim(self, name: str, namespace: str, *, make: bool) -> None:
        """All names belong to the one namespace."""

    async def name_owner(self, name: str) -> str:
        await self._ask()
        return ""

    async def find_identical(
        self, name: str, lineage_digest: str, believed: VersionTest
    ) -> RegisteredVersion | None:
        await self._ask()
        for version in reversed(self._server.versions.get(name, ())):
            if version.tags.get(plans.TAG_LINEAGE) == lineage_digest and believed(version):
                return self._with_aliases(version)
        return None

    async def register(self, registration: Registration) -> RegisteredVersion:
        # As with MLflow: found by its run, else made; nothing is compared in between.
        await self._ask()
        versions = self._server.versions.setdefault(registration.name, [])
        found = [version for version in versions if version.run_id == registration.run_id]
        if not found:
            await self._ask()
            number = len(versions) + 1
            run_id, source = registration.run_id, registration.source
            made = RegisteredVersion(
                registration.name, number, run_id, source, "READY", dict(registration.tags)
            )
            versions.append(made)
            self._server._world.tell("tracker", f"version {number} of {made.name} from {run_id}")
            found = [made]
            await self._answer()
        if registration.alias:
            await self._ask()
            place = (registration.name, registration.alias)
            if self._server.aliases.get(place, 0) < found[0].version:
                self._server.aliases[place] = found[0].version
            await self._answer()
        return self._with_aliases(found[0])

    async def tag_version(
        self, version: RegisteredVersion, experiment_id: str, tags: Mapping[str, str]
    ) -> None:
        await self._ask()
        versions = self._server.versions[version.name]
        stored = versions[version.version - 1]
        versions[version.version - 1] = replace(stored, tags={**stored.tags, **tags})
        await self._answer()

    async def tag_run(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        await self._ask()
        stored = self._server.runs[run.run_id]
        stored.run = replace(stored.run, tags={**stored.run.tags, **tags})
        await self._answer()

    async def find_evaluation(
        self, digest: str, experiment: str, believed: RunTest
    ) -> TrackedRun | None:
        await self._ask()
        for stored in reversed(self._server.runs.values()):
            tags = stored.run.tags
            measured = tags.get(TAG_EVALUATION_DIGEST) == digest and TAG_EVALUATION_SUMMARY in tags
            if measured and believed(stored.run):
                return stored.run
        return None

    async def alias_holder(self, name: str, alias: str) -> RegisteredVersion | None:
        await self._ask()
        number = self._server.aliases.get((name, alias))
        return self._server.versions[name][number - 1] if number else None

    async def move_alias(self, move: AliasMove) -> AliasMove:
        await self._ask()
        place = (move.name, move.alias)
        if self._server.aliases.get(place) == move.expected:
            self._server.aliases[place] = move.version
        await self._answer()
        return replace(move, holder=self._server.aliases.get(place))

    async def close(self) -> None:
        """Nothing is open."""

    def _with_aliases(self, version: RegisteredVersion) -> RegisteredVersion:
        aliases = [
            alias
            for (name, alias), number in self._server.aliases.items()
            if (name, number) == (version.name, version.version)
        ]
        return replace(version, aliases=aliases)

    async def _ask(self) -> None:
        await self._server._world.boundary("tracker")
        match self._server.trouble:
            case "away":
                await asyncio.sleep(ANSWER_SECONDS)
                raise TrackingError("no answer: connection refused")
            case "refusing":
                await asyncio.sleep(ANSWER_SECONDS)
                raise TrackingError("401: wrong credentials", credentials=True)
            case "slow":
                await asyncio.sleep(self._server._world.draw.choice((1.0, 3.0, PATIENCE_SECONDS)))
            case _:
                await asyncio.sleep(ANSWER_SECONDS)

    async def _answer(self) -> None:
        """After an effect: the answer may be lost, or nobody may be left to hear it."""
        await self._server._world.boundary("tracker")
        if self._server.trouble == "lossy":
            await asyncio.sleep(PATIENCE_SECONDS)
            raise TrackingError("no answer within 5 s")


class ModelPool:
    """Gives the operator's Trackers their tracker."""

    def __init__(self, tracker: ModelTracker) -> None:
        self._tracker = tracker

    def get(self, *_: object) -> ModelTracker:
        """The tracker, whatever the address and the credentials."""
        return self._tracker
