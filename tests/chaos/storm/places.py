"""What runs do on each target, in the cluster and in the simulator of CML."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubetune.api.run import plan
from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune_devcluster.cml.server import FOREVER, Script
from kubetune_devcluster.cml.server.records import Job, Run
from mlflow.tracking import MlflowClient

from tests.chaos.storm.courses import CRASHED, Course, Requests
from tests.chaos.storm.record import Record
from tests.cluster.namespace import Namespace
from tests.cml.lives import RUNNING, ended
from tests.cml.space import CmlSpace

SPARE_ATTEMPTS = 4
"""That are told to succeed, too: one too many is to show in the count, and not to hang."""
INTERRUPTED = Outcome(status="interrupted", reason="Interrupted", retryable=True)
BRIEF = 0.3
"""Seconds of a run that ends by itself."""


class Tracked:
    """What trainings leave in MLflow."""

    def __init__(self, space: Namespace) -> None:
        self._client: Any = MlflowClient(space.cluster.mlflow_url)
        self._experiment_name = f"kubetune-{space.namespace}"
        self._experiment = ""
        system = space.request("GET", "/api/v1/namespaces/kube-system")
        self._install_id: str = system["metadata"]["uid"]

    def log(self, course: Course) -> None:
        """A run with a model; repeated until MLflow has answered."""
        client = self._client
        if not self._experiment:
            found = client.get_experiment_by_name(self._experiment_name)
            name = self._experiment_name
            self._experiment = found.experiment_id if found else client.create_experiment(name)
        if not course.run_id:
            tags = {
                plan.TAG_RUN_KEY: course.run_key,
                plan.TAG_INSTALL: self._install_id,
                plan.TAG_PHASE: "training",
            }
            wanted = f"tags.`{plan.TAG_RUN_KEY}` = '{course.run_key}'"
            known = client.search_runs([self._experiment], wanted)
            run = known[0] if known else client.create_run(self._experiment, tags=tags)
            course.run_id = run.info.run_id
        if not course.model_id:
            model = client.create_logged_model(self._experiment, source_run_id=course.run_id)
            course.model_id = model.model_id
        client.finalize_logged_model(course.model_id, "READY")


class InCluster:
    """Runs are pods of the process node."""

    def __init__(self, space: Namespace, record: Record) -> None:
        self.name = "kubernetes"
        self.space, self.record, self.requests = space, record, Requests(space)
        self.log = Tracked(space).log

    def fail(self, course: Course, attempt: int) -> None:
        """See Place."""
        course.failing.add(attempt)
        self.space.end_run(course.run_key, attempt, ExitCode.FAILED, CRASHED)

    def succeed(self, course: Course, first: int) -> None:
        """See Place."""
        for attempt in range(first, first + SPARE_ATTEMPTS):
            self.space.end_run(course.run_key, attempt, 0, course.outcome)

    def runs(self, course: Course) -> bool:
        """See Place."""
        return bool(self.record.running_pod(course.name))

    def evict(self, course: Course) -> None:
        """See Place."""
        if pod := self.record.running_pod(course.name):
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
            path = self.space.path("Pod", pod) + "/eviction"
            self.requests.send("POST", path, body)
            course.evicted = True
        elif len(self.record.made[course.name]) > 1:
            # The answer was lost, not the request.
            course.evicted = True


class InWorkspace:
    """Runs follow scripts in the simulator."""

    def __init__(self, space: CmlSpace, record: Record) -> None:
        self.name = "cml"
        self.space: Namespace = space
        self.record, self.requests = record, Requests(space)
        self.cml = space
        self.log = Tracked(space).log
        self.courses: dict[str, Course] = {}
        self._inspections = space.simulator.script_for
        space.simulator.script_for = self._script

    def fail(self, course: Course, attempt: int) -> None:
        """See Place."""
        course.failing.add(attempt)
        self._tell(course)

    def succeed(self, course: Course, first: int) -> None:
        """See Place."""
        course.succeeds_from = first
        self._tell(course)

    def runs(self, course: Course) -> bool:
        """See Place."""
        return any(run.active for run in self.cml.cml_runs(course.name))

    def evict(self, course: Course) -> None:
        """See Place."""
        for run in self.cml.cml_runs(course.name):
            if run.active:
                self._end(run, ended("ENGINE_FAILED", INTERRUPTED))
        course.evicted = True

    def _tell(self, course: Course) -> None:
        with self.cml.simulator.workspace.lock:
            for run in self.cml.cml_runs(course.name):
                script = self._end_of(course, run)
                if run.active and run.stop_asked is None and script:
                    self._end(run, script)

    def _end(self, run: Run, script: Script) -> None:
        passed = self.cml.simulator.clock.now() - run.created
        run.script = replace(script, steps=((RUNNING, passed + BRIEF),))

    def _end_of(self, course: Course, run: Run) -> Script | None:
        attempt = int(run.environment["KUBETUNE_ATTEMPT"])
        if attempt in course.failing:
            return ended("ENGINE_FAILED", CRASHED, BRIEF)
        if course.succeeds_from and attempt >= course.succeeds_from:
            return ended("ENGINE_SUCCEEDED", course.outcome, BRIEF)
        return None

    def _script(self, job: Job, run: Run) -> Script:
        kind, _, name = run.environment["KUBETUNE_OWNER"].split("/")
        course = self.courses.get(name)
        if kind != "FineTuneJob" or course is None:
            return self._inspections(job, run)
        return self._end_of(course, run) or Script(steps=((RUNNING, FOREVER),))
