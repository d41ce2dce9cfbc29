"""The state of the workspace, and everything that changes it."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from kubetune_devcluster.cml.server.behaviour import Behaviour
from kubetune_devcluster.cml.server.catalog import Catalog
from kubetune_devcluster.cml.server.clock import Clock, RealClock
from kubetune_devcluster.cml.server.errors import not_found, precondition
from kubetune_devcluster.cml.server.lives import ScriptFor, follow
from kubetune_devcluster.cml.server.processes import Processes
from kubetune_devcluster.cml.server.records import Job, Project, Run, Served, new_id
from kubetune_devcluster.cml.server.scripts import Script
from kubetune_devcluster.cml.server.statuses import ENDED, RUNNING, STOPPED, STOPPING, short
from kubetune_devcluster.cml.server.tracking import Tracking
from kubetune_devcluster.cml.server.usage import usage_row

_PLAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Workspace:
    """Projects, jobs and runs; every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.behaviour = Behaviour()
        self.catalog = Catalog()
        self.clock: Clock = RealClock()
        self.mode: Literal["process", "scripted"] = "scripted"
        self.script_for: ScriptFor = lambda _job, _run: Script()
        self.url = ""
        self.keys: set[str] = set()
        self.projects: dict[str, Project] = {}
        self.jobs: dict[str, Job] = {}
        self.runs: dict[str, Run] = {}
        self.served: dict[str, Served] = {}
        self.usage: list[dict[str, Any]] = []
        self.processes = Processes(self)
        self.tracking = Tracking(self)

    # Projects

    def add_project(self, name: str, project_id: str | None = None, **fields: Any) -> Project:
        """A new project; its folder is empty unless its id is that of an earlier one."""
        with self.lock:
            project = Project(project_id or new_id(), name, self.clock.now(), **fields)
            self.projects[project.id] = project
            self.files(project.id).mkdir(parents=True, exist_ok=True)
            return project

    def project(self, project_id: str) -> Project:
        """A project, or the refusal that there is none."""
        project = self.projects.get(project_id)
        if project is None:
            raise not_found("project", project_id)
        return project

    def files(self, project_id: str) -> Path:
        """The folder of a project's files."""
        return self.folder / "projects" / project_id

    def delete_project(self, project_id: str) -> None:
        """Remove a project with all that is in it; its active runs end."""
        with self.lock:
            project = self.project(project_id)
            for job in [job for job in self.jobs.values() if job.project_id == project.id]:
                if job.deleted is None:
                    self.remove_job(job)
            del self.projects[project.id]
            shutil.rmtree(self.files(project.id), ignore_errors=True)

    # Jobs

    def add_job(
        self, project_id: str, settings: dict[str, Any], environment: dict[str, str]
    ) -> Job:
        """A new job."""
        with self.lock:
            now = self.clock.now()
            job = Job(new_id(), project_id, now, now, settings, environment, len(self.jobs))
            self.jobs[job.id] = job
            return job

    def job(self, project_id: str, job_id: str) -> Job:
        """A job of a project, or the refusal that there is none."""
        self.project(project_id)
        job = self.jobs.get(job_id)
        if job is None or job.project_id != project_id or job.deleted is not None:
            raise not_found("job", job_id)
        return job

    def project_jobs(self, project_id: str | None = None) -> list[Job]:
        """Jobs that exist, oldest first."""
        with self.lock:
            return [
                job
                for job in self.jobs.values()
                if job.deleted is None and project_id in (None, job.project_id)
            ]

    def remove_job(self, job: Job) -> None:
        """Delete a job; what it runs ends at once."""
        with self.lock:
            self.settle()
            for run in self.job_runs(job.id):
                if run.active:
                    self.end(run, STOPPED, self.clock.now())
            job.deleted = self.clock.now()

    # Runs

    def job_runs(self, job_id: str) -> list[Run]:
        """Runs of a job, oldest first; also of a deleted one."""
        with self.lock:
            self.settle()
            return [run for run in self.runs.values() if run.job_id == job_id]

    def run(self, project_id: str, job_id: str, run_id: str) -> Run:
        """A run of a job, or the refusal that there is none."""
        self.job(project_id, job_id)
        run = self.runs.get(run_id)
        if run is None or run.job_id != job_id:
            raise not_found("job run", run_id)
        return run

    def add_run(self, job: Job, environment: Mapping[str, str], arguments: str) -> Run:
        """A new active run of a job."""
        with self.lock:
            run = self._new_run(job, environment, arguments)
            self.runs[run.id] = run
            if self.mode == "scripted":
                run.script = self.script_for(job, run)
                run.usage = run.script.usage
            if self.mode == "process":
                now = self.clock.now()
                run.status, run.starting, run.running = RUNNING, now, now
                self.processes.start(run)
            return run

    def add_skipped(self, job: Job, environment: Mapping[str, str]) -> Run:
        """The entry that a run leaves which was not started."""
        with self.lock:
            run = self._new_run(job, environment, job.settings.get("arguments", ""))
            run.status, run.scheduling = self.behaviour.skipped_status, None
            run.finished = run.created
            self.runs[run.id] = run
            return run

    def stop_run(self, run: Run) -> None:
        """Ask an active run to end."""
        with self.lock:
            if run.stop_asked is not None or not run.active:
                return
            run.stop_asked, run.status, run.held = self.clock.now(), STOPPING, False
            if run.script is None:
                self.processes.stop(run.id, self.behaviour.process_grace_seconds)
            self.settle()

    def set_status(self, run_id: str, status: str | None) -> None:
        """Give a run a status, whatever it does; None lets it follow its script again.

        A terminal status ends the run; any other stays until the run is stopped or set again.
        """
        with self.lock:
            self.settle()
            run = self.runs[run_id]
            if not run.active:
                raise precondition(f"job run {run_id} has ended as {run.status}")
            if status in ENDED:
                self.end(run, status, self.clock.now())
            else:
                run.held = status is not None
                run.status = status or run.status
                self.settle()

    def settle(self) -> None:
        """Bring all scripted runs up to the clock."""
        with self.lock:
            now = self.clock.now()
            for run in [run for run in self.runs.values() if run.active]:
                if run.script is None:
                    continue
                place = follow(
                    run,
                    run.script,
                    now,
                    self.behaviour.stop_seconds,
                    self.behaviour.timeout_without_kill == "mark",
                )
                run.status = place.status
                if place.ended is not None:
                    self.end(run, place.status, place.ended)

    def end(self, run: Run, status: str, moment: float) -> None:
        """Let a run be over."""
        with self.lock:
            if not run.active:
                return
            run.status, run.finished = status, moment
            self.keys.discard(run.key)
            if run.script is None:
                self.processes.stop(run.id, 0.0)
            elif status != STOPPED and run.running is not None:
                self._write_outcome(run, run.script)
            if project := self.projects.get(run.project_id):
                self.usage.append(usage_row(run, project, self.url))

    def status(self, run: Run) -> str:
        """A run's status as the API words it."""
        return short(run.status) if self.behaviour.short_status else run.status

    def most_active(self, chosen: Callable[[Run], bool]) -> int:
        """The largest number of chosen runs that were active at one time."""
        with self.lock:
            self.settle()
            changes: list[tuple[float, int]] = []
            for run in self.runs.values():
                # An entry that never ran has no time at all.
                if chosen(run) and run.finished != run.created:
                    changes.append((run.created, 1))
                    if run.finished is not None:
                        changes.append((run.finished, -1))
            most = active = 0
            # At one moment ends come first: -1 sorts before 1.
            for _, change in sorted(changes):
                active += change
                most = max(most, active)
            return most

    def _new_run(self, job: Job, environment: Mapping[str, str], arguments: str) -> Run:
        now = self.clock.now()
        project = self.projects[job.project_id]
        return Run(
            id=new_id(),
            project_id=job.project_id,
            job_id=job.id,
            job_name=job.name,
            created=now,
            settings=dict(job.settings),
            arguments=arguments,
            environment={**project.environment, **job.environment, **environment},
            scheduling=now,
        )

    def _write_outcome(self, run: Run, script: Script) -> None:
        outcome = script.outcome_text()
        key = run.environment.get("KUBETUNE_RUN_KEY", "")
        attempt = run.environment.get("KUBETUNE_ATTEMPT", "")
        if outcome is None or not (_PLAIN_NAME.match(key) and _PLAIN_NAME.match(attempt)):
            return
        target = self.files(run.project_id) / ".kubetune" / "runs" / key
        target.mkdir(parents=True, exist_ok=True)
        part = target / f".outcome-{attempt}"
        part.write_text(outcome)
        part.replace(target / f"outcome-{attempt}.json")
