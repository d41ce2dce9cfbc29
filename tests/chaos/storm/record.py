"""What three watches have shown of a namespace: phases, Jobs that were made, pods that ran."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Generator
from typing import Any

from kubetune import names
from kubetune.api.conditions import TERMINAL_PHASES

from tests.chaos.storm.watching import Watch
from tests.cluster.namespace import Namespace, annotations, phase_of

KINDS = ("FineTuneJob", "Job", "Pod")


class Record:
    """What was seen of the jobs of a namespace, by their names."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self._lock = threading.Lock()
        self.jobs: dict[str, dict[str, Any]] = {}
        """FineTuneJobs as they are now."""
        self.flaps: list[str] = []
        """Jobs that were over, and then were not."""
        self.made: dict[str, set[str]] = defaultdict(set)
        """Uids of all Jobs that were ever made for a job."""
        self.pods: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        """Pods that are there, by job and name."""
        self.most_running: dict[str, int] = defaultdict(int)
        """The most pods of a job that ran at one time."""
        self.changes = 0
        """How many writes of FineTuneJobs were seen."""
        self.watches: list[Watch] = []

    @contextlib.contextmanager
    def kept(self) -> Generator[Record]:
        """Watch within the block."""
        with contextlib.ExitStack() as stack:
            for kind in KINDS:
                watch = Watch(self._space.cluster.kubeconfig, self._space.path(kind), self._seen)
                self.watches.append(stack.enter_context(watch))
            yield self

    def phase(self, name: str) -> str:
        """The phase of a job, empty without one."""
        body = self.jobs.get(name)
        return phase_of(body) if body else ""

    def running_pod(self, name: str) -> str:
        """The name of a pod of a job that runs, if there is one."""
        with self._lock:
            return next((pod for pod, body in self.pods[name].items() if _runs(body)), "")

    def _seen(self, event: str, body: dict[str, Any]) -> None:
        # Items of lists have no kind.
        kind = body.get("kind") or _kind(body)
        name = annotations(body).get(names.OWNER_NAME, "")
        with self._lock:
            if kind == "FineTuneJob":
                self._seen_job(event, body)
            elif kind == "Job" and name:
                self.made[name].add(body["metadata"]["uid"])
            elif kind == "Pod" and name:
                self._seen_pod(event, name, body)

    def _seen_job(self, event: str, body: dict[str, Any]) -> None:
        self.changes += 1
        name = body["metadata"]["name"]
        before = self.jobs.get(name)
        if before and before["metadata"]["uid"] == body["metadata"]["uid"]:
            was, now = phase_of(before), phase_of(body)
            lost = _ends(before) - _ends(body)
            if (was in TERMINAL_PHASES and now != was) or lost:
                version = body["metadata"]["resourceVersion"]
                self.flaps.append(f"{name} went from {was} to {now or 'nothing'} at {version}")
        if event == "DELETED":
            self.jobs.pop(name, None)
        else:
            self.jobs[name] = body

    def _seen_pod(self, event: str, name: str, body: dict[str, Any]) -> None:
        pods = self.pods[name]
        if event == "DELETED":
            pods.pop(body["metadata"]["name"], None)
        else:
            pods[body["metadata"]["name"]] = body
        running = sum(_runs(pod) for pod in pods.values())
        self.most_running[name] = max(self.most_running[name], running)


def _ends(body: dict[str, Any]) -> set[str]:
    """Which of Complete and Failed are True."""
    found = (body.get("status") or {}).get("conditions") or ()
    over = {each["type"] for each in found if each["status"] == "True"}
    return over & {"Complete", "Failed"}


def _runs(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _kind(body: dict[str, Any]) -> str:
    spec = body.get("spec") or {}
    if "modelRef" in spec:
        return "FineTuneJob"
    return "Job" if "template" in spec else "Pod"
