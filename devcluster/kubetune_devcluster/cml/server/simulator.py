"""A workspace of CML on this machine, for tests and for trying things out."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from kubetune_devcluster.cml.server.application import Application, Request
from kubetune_devcluster.cml.server.behaviour import Behaviour
from kubetune_devcluster.cml.server.catalog import Catalog
from kubetune_devcluster.cml.server.clock import Clock
from kubetune_devcluster.cml.server.faults import Faults
from kubetune_devcluster.cml.server.lives import ScriptFor
from kubetune_devcluster.cml.server.records import Job, Project, Run
from kubetune_devcluster.cml.server.workspace import Workspace
from kubetune_devcluster.mlflow_database import artifacts, prepare

PROJECT = "kubetune-demo"
SCRIPT = "entry.py"


class Simulator:
    """The server; ``with Simulator(folder) as simulator`` serves ``simulator.url``.

    ``stop`` and ``start`` only take the server away and bring it back, at the same address and
    with all it knows; runs go on meanwhile. ``close`` also ends the processes of runs. With the
    ``project_id`` of an earlier server in this folder the project has its files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        key: str | None = None,
        project_id: str | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, artifacts(folder), make=False)
        self.workspace = Workspace(folder)
        self._application = Application(self.workspace)
        self.api_key = key or secrets.token_urlsafe(32)
        self.workspace.keys.add(self.api_key)
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None
        self.project: Project = self.workspace.add_project(PROJECT, project_id)
        """The project that is there from the start."""

    # Life

    def start(self) -> Simulator:
        """Serve on loopback; returns when it answers."""
        if self._thread is not None:
            return self
        ready: Future[None] = Future()
        # The loop lives in the thread alone, so that a caller may have one of its own.
        thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="cml", daemon=True
        )
        thread.start()
        ready.result(timeout=30)
        self._thread = thread
        atexit.register(self.close)
        return self

    def stop(self) -> None:
        """Take the server away; open connections are closed."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout=30)
        self._thread = self._loop = None

    async def _serve(self, ready: Future[None]) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        # A client that waits for an answer must not keep the server from going down.
        runner = web.AppRunner(self._application.web(), access_log=None, shutdown_timeout=0.1)
        try:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self._port, reuse_address=True)
            await site.start()
            self._port = runner.addresses[0][1]
            self.workspace.url = self.url
            ready.set_result(None)
            await self._ended.wait()
        except OSError as error:
            ready.set_exception(error)
        finally:
            await runner.cleanup()

    def close(self) -> None:
        """Take the server away for good and end what it runs."""
        self.stop()
        self.workspace.processes.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # Settings

    @property
    def url(self) -> str:
        """The address, once it was started."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def behaviour(self) -> Behaviour:
        """The switches."""
        return self.workspace.behaviour

    @property
    def faults(self) -> Faults:
        """The bad days to come."""
        return self._application.faults

    @property
    def catalog(self) -> Catalog:
        """Runtimes, add-ons, labels and quotas, to be changed in place."""
        return self.workspace.catalog

    @property
    def clock(self) -> Clock:
        """The time of runs and of listings."""
        return self.workspace.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self.workspace.clock = clock

    @property
    def mode(self) -> Literal["process", "scripted"]:
        """How runs made from now on run."""
        return self.workspace.mode

    @mode.setter
    def mode(self, mode: Literal["process", "scripted"]) -> None:
        if mode not in ("process", "scripted"):
            raise ValueError(f"mode {mode!r} is neither process nor scripted")
        self.workspace.mode = mode

    @property
    def script_for(self) -> ScriptFor:
        """Gives the script of a run in the mode ``scripted``."""
        return self.workspace.script_for

    @script_for.setter
    def script_for(self, script_for: ScriptFor) -> None:
        self.workspace.script_for = script_for

    def add_key(self) -> str:
        """One more API key that counts."""
        key = secrets.token_urlsafe(32)
        self.workspace.keys.add(key)
        return key

    def revoke_key(self, key: str | None = None) -> None:
        """An API key (by default the first one) counts no more."""
        self.workspace.keys.discard(key or self.api_key)

    # What happened

    @property
    def requests(self) -> list[Request]:
        """Every request, oldest first."""
        return list(self._application.requests)

    def count(self, operation: str) -> int:
        """How many requests an operation had."""
        return sum(request.operation == operation for request in self.requests)

    def jobs(self, project: str | None = None) -> list[Job]:
        """The jobs that exist, of a project (its id) or of all."""
        return self.workspace.project_jobs(project)

    def all_jobs(self) -> list[Job]:
        """Every job that ever was; ``deleted`` tells which are gone."""
        with self.workspace.lock:
            return list(self.workspace.jobs.values())

    def runs(self, job_id: str) -> list[Run]:
        """A job's runs, also when it is deleted, oldest first."""
        return self.workspace.job_runs(job_id)

    def run(self, run_id: str) -> Run:
        """One run."""
        self.workspace.settle()
        return self.workspace.runs[run_id]

    def most_active(self, job_id: str) -> int:
        """The largest number of a job's runs that were ever active at one time."""
        return self.workspace.most_active(lambda run: run.job_id == job_id)

    def most_active_of(self, run_key: str) -> int:
        """The same over all jobs, for the runs with this ``KUBETUNE_RUN_KEY``."""
        return self.workspace.most_active(
            lambda run: run.environment.get("KUBETUNE_RUN_KEY") == run_key
        )

    def log(self, run_id: str) -> str:
        """What the process of a run wrote."""
        path = self.workspace.processes.log(run_id)
        return path.read_text(errors="replace") if path.is_file() else ""

    # A person in the page

    def files(self, project: Project | None = None) -> Path:
        """The folder of a project's files."""
        return self.workspace.files((project or self.project).id)

    def write(self, name: str, content: str, project: Project | None = None) -> Path:
        """Put a file into a project."""
        path = self.files(project) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def set_environment(self, environment: dict[str, str], project: Project | None = None) -> None:
        """Set the variables of a project."""
        (project or self.project).environment = dict(environment)

    def add_project(self, name: str) -> Project:
        """Make a project."""
        return self.workspace.add_project(name)

    def delete_project(self, project_id: str) -> None:
        """Delete a project."""
        self.workspace.delete_project(project_id)

    def add_job(self, name: str, project: Project | None = None, **settings: Any) -> Job:
        """Make a job; without a ``script`` it gets an empty one."""
        project = project or self.project
        if "script" not in settings:
            settings["script"] = SCRIPT
            if not (self.files(project) / SCRIPT).exists():
                self.write(SCRIPT, "", project)
        environment = settings.pop("environment", {})
        settings.setdefault("runtime_identifier", self.runtime_identifier())
        return self.workspace.add_job(project.id, {"name": name, **settings}, environment)

    def runtime_identifier(self, edition: str = "Standard") -> str:
        """An enabled PBJ runtime."""
        return next(
            runtime["image_identifier"]
            for runtime in reversed(self.catalog.runtimes)
            if runtime["status"] == "ENABLED"
            and runtime["edition"] == edition
            and runtime["editor"] == "PBJ Workbench"
            and runtime["kernel"].startswith("Python")
        )

    def start_run(self, job_id: str, environment: dict[str, str] | None = None) -> Run:
        """Run a job."""
        job = self.workspace.jobs[job_id]
        return self.workspace.add_run(job, environment or {}, job.settings.get("arguments", ""))

    def delete_job_by_hand(self, job_id: str) -> None:
        """Delete a job; its active run ends."""
        self.workspace.remove_job(self.workspace.jobs[job_id])

    def stop_run_by_hand(self, run_id: str) -> None:
        """Stop a run."""
        self.workspace.settle()
        self.workspace.stop_run(self.workspace.runs[run_id])

    def set_status(self, run_id: str, status: str | None) -> None:
        """Give a run a status; None lets it follow its script again."""
        self.workspace.set_status(run_id, status)

    def settle(self) -> None:
        """Bring scripted runs up to the clock, with their outcome files."""
        self.workspace.settle()
