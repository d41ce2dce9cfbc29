"""A model of a CML workspace with one project, and the client that the operator calls it with.

Lists are behind, answers get lost, jobs are deleted by hand. As in CML a job has one active run at
a time, and there are no keys that would make a repeated create harmless.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from kubetune.api import JsonObject
from kubetune.api.run import plan as plans
from kubetune.clients.cml import (
    CmlClient,
    CmlError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_models import variables
from kubetune.clients.cml_operations import Operation

from tests.simulation.runs import Ended, Run, RunFacts

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

PROJECT: JsonObject = {"id": "abcd-efgh-ijkl-mnop", "name": "tuning", "creation_status": "success"}
RUNTIMES = [{"image_identifier": "runtime:1", "kernel": "Python 3.11", "status": "ENABLED"}]
LATE_SECONDS = 35.0
ACTIVE = ("ENGINE_SCHEDULING", "ENGINE_STARTING", "ENGINE_RUNNING", "ENGINE_STOPPING")


class CmlWorkspace:
    """Jobs, runs and files of the project."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.jobs: dict[str, JsonObject] = {}
        self.runs: dict[str, dict[str, JsonObject]] = {}
        """Runs by job, then by id."""
        self.files: dict[str, bytes] = {}
        self.trouble = ""
        """Empty, away, throttled, or what becomes of the next write: lost (it happens, without an
        answer), mute (nothing happens, without an answer), late (it happens later)."""
        self.behind_seconds = 0.0
        """How much later than made something shows in lists."""
        self._processes: dict[str, Run] = {}

    def delete_by_hand(self, job_id: str) -> None:
        """Somebody deletes a job on the workspace's pages, and what runs ends."""
        self._world.tell("CML", f"{self.jobs[job_id]['name']} is deleted by hand")
        for run_id in self.runs[job_id]:
            self.stop_job_run(PROJECT["id"], job_id, run_id)
        self.delete_job(PROJECT["id"], job_id)

    # --- operations

    def list_projects(self, **_: Any) -> JsonObject:
        return {"projects": [PROJECT]}

    def get_project(self, project: str, **_: Any) -> JsonObject:
        return PROJECT

    def list_runtimes(self, **_: Any) -> JsonObject:
        return {"runtimes": RUNTIMES}

    def list_usage(self, **_: Any) -> JsonObject:
        return {"usage_response": []}

    def list_jobs(self, project: str, **_: Any) -> JsonObject:
        return {"jobs": [dict(job) for job in self.jobs.values() if self._shows(job)]}

    def get_job(self, project: str, job_id: str, **_: Any) -> JsonObject:
        return dict(self._job(job_id))

    def create_job(self, body: JsonObject, project: str, **_: Any) -> JsonObject:
        job_id = f"job-{self._world.count('cml job')}"
        made = {
            **body,
            "id": job_id,
            "environment": json.dumps(body["environment"]),
            "created_at": self._now(),
            "project": {"slug": "team/tuning", "public_identifier": PROJECT["id"]},
        }
        self.jobs[job_id], self.runs[job_id] = made, {}
        return dict(made)

    def update_job(self, body: JsonObject, project: str, job_id: str, **_: Any) -> JsonObject:
        job = self._job(job_id)
        job |= body
        return dict(job)

    def delete_job(self, project: str, job_id: str, **_: Any) -> JsonObject:
        self._job(job_id)
        # What runs goes on.
        del self.jobs[job_id], self.runs[job_id]
        return {}

    def list_job_runs(self, project: str, job_id: str, **_: Any) -> JsonObject:
        self._job(job_id)
        return {"job_runs": [dict(run) for run in self.runs[job_id].values() if self._shows(run)]}

    def get_job_run(self, project: str, job_id: str, run_id: str, **_: Any) -> JsonObject:
        return dict(self._run(job_id, run_id))

    def create_job_run(self, body: JsonObject, project: str, job_id: str, **_: Any) -> JsonObject:
        job = self._job(job_id)
        active = any(run["status"] in ACTIVE for run in self.runs[job_id].values())
        run_id = f"run-{self._world.count('cml run')}"
        made: JsonObject = {
            "id": run_id,
            "job_id": job_id,
            "status": "ENGINE_SKIPPED" if active else "ENGINE_SCHEDULING",
            "created_at": self._now(),
            "scheduling_at": self._now(),
            "environment": json.dumps(body.get("environment") or {}),
        }
        self.runs[job_id][run_id] = made
        if not active:
            wait = self._world.draw.choice((1.0, 5.0, 30.0))
            self._world.later(wait, lambda: self._begin(job, made))
        return dict(made)

    def stop_job_run(self, project: str, job_id: str, run_id: str, **_: Any) -> JsonObject:
        run = self._run(job_id, run_id)
        if run["status"] == "ENGINE_SCHEDULING":
            self._end(run, "ENGINE_STOPPED")
        elif run["status"] in ACTIVE:
            run["status"] = "ENGINE_STOPPING"
            self._processes[run_id].stop()
        return {}

    def delete_project_file(self, project: str, path: str, **_: Any) -> JsonObject:
        for name in [name for name in self.files if name.startswith(path)]:
            del self.files[name]
        return {}

    # --- what runs do

    def _begin(self, job: JsonObject, run: JsonObject) -> None:
        if run["status"] != "ENGINE_SCHEDULING":
            return
        environment = variables(job["environment"]) | variables(run["environment"])
        plan = plans.decode_plan(environment[plans.ENV_PLAN_DATA])
        facts = RunFacts(
            name=f"{job['name']}/{run['id']}",
            run_key=environment[plans.ENV_RUN_KEY],
            purpose={"train": "train", "evaluate": "evaluate"}.get(plan["kind"], "inspect"),
            attempt=int(environment[plans.ENV_ATTEMPT]),
            outside=True,
            batch=environment.get(plans.ENV_BATCH, ""),
        )
        run["status"], run["running_at"] = "ENGINE_RUNNING", self._now()
        path = plans.outcome_path(facts.run_key, facts.attempt)
        process = Run(
            self._world,
            facts,
            plan,
            report=lambda ended: self._ended(run, ended, path),
            evict=lambda: process.stop(),
        )
        self._processes[run["id"]] = process
        process.start()

    def _ended(self, run: JsonObject, ended: Ended, path: str) -> None:
        if ended.message:
            self.files[path] = ended.message.encode()
        succeeded = "ENGINE_SUCCEEDED" if ended.result == "succeeded" else "ENGINE_FAILED"
        self._end(run, "ENGINE_STOPPED" if run["status"] == "ENGINE_STOPPING" else succeeded)

    def _end(self, run: JsonObject, status: str) -> None:
        run["status"], run["finished_at"] = status, self._now()

    def _job(self, job_id: str) -> JsonObject:
        if job_id not in self.jobs:
            raise NotFoundError(f"there is no job {job_id}")
        return self.jobs[job_id]

    def _run(self, job_id: str, run_id: str) -> JsonObject:
        self._job(job_id)
        if run_id not in self.runs[job_id]:
            raise NotFoundError(f"there is no run {run_id}")
        return self.runs[job_id][run_id]

    def _shows(self, item: JsonObject) -> bool:
        return (self._now() - item["created_at"]).total_seconds() >= self.behind_seconds

    def _now(self) -> datetime:
        return self._world.loop.now()


class ModelCmlClient(CmlClient):
    """The real client down to its calls of the package, which go to the model without threads."""

    def __init__(self, world: World) -> None:
        super().__init__("https://cml.example", "key")
        self._world = world
        self._workspace = world.cml

    async def _in_thread(self, operation: str, run: Callable[[Any], T], *, writes: bool) -> T:
        await asyncio.sleep(0.05)
        world, workspace = self._world, self._workspace
        if workspace.trouble == "away":
            raise UnavailableError(f"{self.url} can't be reached")
        if workspace.trouble == "throttled":
            raise ThrottledError(f"{self.url} asks for rest", 10.0)
        if not writes:
            return run(workspace)
        await world.boundary("CML")
        trouble, workspace.trouble = workspace.trouble, ""
        world.tell("operator", f"CML {operation} {trouble}".rstrip())
        if trouble == "late":
            world.later(LATE_SECONDS, lambda: self._happen_late(operation, run))
        elif trouble != "mute":
            answer = run(workspace)
            await world.boundary("CML")
            if not trouble:
                return answer
        await asyncio.sleep(30.0)
        raise UnknownOutcomeError(f"{operation}: no answer within 30 s")

    async def upload(self, project_id: str, path: str, content: bytes) -> None:
        def send(api: CmlWorkspace) -> None:
            api.files[path] = content

        await self._in_thread("upload_file", send, writes=True)

    async def download(self, project_id: str, path: str) -> bytes:
        def receive(api: CmlWorkspace) -> bytes:
            if path not in api.files:
                raise NotFoundError(f"there is no file {path}")
            return api.files[path]

        return await self._in_thread("download_project_file", receive, writes=False)

    async def supports(self, operation: Operation[Any]) -> bool:
        return False

    def _happen_late(self, operation: str, run: Callable[[Any], object]) -> None:
        self._world.tell("CML", f"now arrives: {operation}")
        try:
            run(self._workspace)
        except CmlError as refused:
            self._world.tell("CML", f"... and is refused: {refused}")


class ModelCmlClients:
    """Gives the backend its client."""

    def __init__(self, world: World) -> None:
        self._client = ModelCmlClient(world)

    def get(self, *_: object) -> ModelCmlClient:
        """The client, whatever the address and the key."""
        return self._client

    async def close(self) -> None:
        """Nothing is open."""
