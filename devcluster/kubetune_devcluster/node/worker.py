"""One pod from its binding to its deletion: start, watch, stop, report.

The pod's folder (`HOME/pods/UID`) and the API object are the only state, so a worker made by a
new node process finds the containers that an earlier one started and goes on with them.
"""

import asyncio
import json
import logging
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import environment, logs, shim, status, support, volumes
from .attempt import Attempt
from .client import STRATEGIC, UNREACHABLE, ApiError, Object
from .gpus import gpus_of
from .launch import Launch, Node

logger = logging.getLogger(__name__)

HOST_ADDRESS = "127.0.0.1"
_RETRY = 2.0
"""Seconds until a missing ConfigMap, Secret or volume is looked for again."""
_LONGEST_RETRY = 300.0
"""Most seconds between two tries of a start at which the node itself failed."""
_COALESCE = 0.05
"""Seconds to collect changes in before a status is sent; a short pod then costs one write."""


class PodWorker:
    """Runs one pod; `task` ends when the pod is gone, or when the node stops."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.node, self.pod = node, pod
        self.uid: str = pod["metadata"]["uid"]
        self.folder = node.home / "pods" / self.uid
        self.attempts = {
            c["name"]: Attempt(self.folder / "containers" / c["name"])
            for c in environment.all_containers(pod)
        }
        self.verdict = status.Verdict()
        reported: Object = pod.get("status") or {}
        addresses = {
            "hostIP": HOST_ADDRESS,
            "podIP": reported.get("podIP") or pod_address(self.uid),
        }
        start = reported.get("startTime") or status.now()
        self._launch = Launch(node, pod, self.folder, addresses)
        images = {name: str(folder) for name, folder in self._launch.environments().items()}
        self.facts = status.Facts(addresses, images, start)
        self.reported_running: set[str] = set()
        for found in [
            *(reported.get("initContainerStatuses") or ()),
            *(reported.get("containerStatuses") or ()),
        ]:
            # A state once sent can't be taken back: the API server refuses it.
            if "terminated" in found["state"]:
                self.facts.states[found["name"]] = found["state"]
            elif "running" in found["state"]:
                self.reported_running.add(found["name"])
        self.gone = False
        self.node_stopping = False
        self.changed = asyncio.Event()
        self._updated = asyncio.Event()
        self._dirty = asyncio.Event()
        self._ended = reported.get("phase") in status.FINISHED
        if not self._ended and (self.folder / "pod.json").exists():
            node.gpus.restore(self.uid, json.loads((self.folder / "pod.json").read_text())["gpus"])
        self.task = asyncio.create_task(self._live())

    # What the manager calls.

    def update(self, pod: Object) -> None:
        """Take a newer version of the pod's object."""
        self.pod = self._launch.pod = pod
        self._updated.set()
        self.changed.set()

    def forget(self) -> None:
        """The pod's object is gone, perhaps by a forced delete: kill what still runs."""
        self.gone = True
        self.changed.set()

    def stop_for_node(self) -> None:
        """The node stops with its pods: end the pod as disrupted, then the task."""
        self.node_stopping = True
        self.changed.set()

    # From here on: the task.

    async def _live(self) -> None:
        if not self._ended:
            reporter = asyncio.create_task(self._report())
            try:
                await self._run_or_stop()
                self._ended = True
                self._dirty.set()
                await reporter
            finally:
                reporter.cancel()
                self.node.gpus.release(self.uid)
        await self._until(
            lambda: self.gone or self.node_stopping or "deletionTimestamp" in self.pod["metadata"]
        )
        if not self.gone and "deletionTimestamp" in self.pod["metadata"]:
            await self._delete_object()

    async def _run_or_stop(self) -> None:
        body = asyncio.create_task(self._execute_patiently())
        body.add_done_callback(lambda _: self.changed.set())

        def interrupted() -> bool:
            deleted = "deletionTimestamp" in self.pod["metadata"]
            return body.done() or self.gone or self.node_stopping or deleted

        try:
            await self._until(interrupted, self._seconds_left())
        finally:
            body.cancel()  # also when the node leaves; the containers stay
        await asyncio.wait([body])
        error = None if body.cancelled() else body.exception()
        if error is not None:
            logger.error("pod %s failed in the node", self._name(), exc_info=error)
            verdict = status.Verdict(failed=True, reason="NodeError", message=repr(error))
        elif not body.cancelled():
            return
        elif self.node_stopping and not any(a.known for a in self.attempts.values()):
            return  # nothing ran yet: the pod stays as it is and starts with the next node
        elif "deletionTimestamp" in self.pod["metadata"] or self.gone:
            verdict = status.Verdict(failed=True)
        elif self.node_stopping:
            message = "the process node was stopped"
            verdict = status.Verdict(failed=True, message=message, disrupted=message)
        else:
            limit = self.pod["spec"]["activeDeadlineSeconds"]
            message = f"the pod ran longer than activeDeadlineSeconds, which is {limit}"
            verdict = status.Verdict(failed=True, reason="DeadlineExceeded", message=message)
        await self._terminate(verdict)

    async def _execute_patiently(self) -> None:
        """Run the pod; where the node itself fails before any container ran, try again later."""
        wait = _RETRY
        while True:
            try:
                return await self._execute()
            except Exception as error:
                if self._begun():
                    raise
                logger.exception("pod %s can't be started", self._name())
                text = f"the process node failed: {error!r}; its log has more"
            # Never a failed pod, which a ReplicaSet would replace at once, for ever.
            self._wait_with("NodeError", text, environment.all_containers(self.pod))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_RETRY)

    async def _execute(self) -> None:
        """Run the pod's containers to their ends; what already ran or runs is picked up."""
        spec = self.pod["spec"]
        if not self._begun():
            # What runs already was taken, and goes on whatever was added to its object.
            await self._until_possible()
        await self._take_gpus()
        self._go_on()
        for container in spec.get("initContainers") or ():
            if await self._run(container) != 0:
                return
        async with asyncio.TaskGroup() as group:
            for container in spec["containers"]:
                group.create_task(self._run(container))

    def _begun(self) -> bool:
        """Whether any container was ever started."""
        ended = any("terminated" in state for state in self.facts.states.values())
        known = any(attempt.known for attempt in self.attempts.values())
        return ended or known or bool(self.reported_running)

    async def _until_possible(self) -> None:
        """Return once the node can run the pod; until then it is Pending and says why.

        It isn't failed: the controllers of Deployments, DaemonSets and StatefulSets make a new pod
        for a failed one at once. The pod's change, as of its image, or its deletion ends this.
        """
        while True:
            self._updated.clear()
            containers = environment.all_containers(self.pod)
            known = self._launch.environments()
            unknown = [c for c in containers if c["image"] not in known]
            if reason := support.refusal(self.pod):
                self._wait_with("NotSupported", reason, containers)
            elif unknown:
                for container in unknown:
                    message = support.unknown_image(container["image"], self.node.images)
                    self._wait_with("ErrImagePull", message, [container])
            else:
                self.facts.images = {name: str(folder) for name, folder in known.items()}
                return
            await self._updated.wait()

    def _wait_with(self, reason: str, message: str, containers: list[Object]) -> None:
        """Show the containers, and with them the pod, as held up."""
        verdict = status.Verdict(waiting=True, reason=reason, message=message)
        if verdict != self.verdict:
            self.verdict = verdict
            self._dirty.set()
        for container in containers:
            self._set(container, {"waiting": {"reason": reason, "message": message}})

    def _go_on(self) -> None:
        """Take back what ``_wait_with`` has shown."""
        self.verdict = status.Verdict()
        waiting = [name for name, state in self.facts.states.items() if "waiting" in state]
        for name in waiting:
            del self.facts.states[name]
        self._dirty.set()

    async def _take_gpus(self) -> None:
        # The scheduler may count another pod's GPUs as free a moment before that pod's end here,
        # and a pod that names its node was never counted.
        while not self.node.gpus.take(self.uid, wanted := gpus_of(self.pod)):
            message = f"the pod needs {wanted} GPUs: not as many are free on the process node"
            self._wait_with("GpusTaken", message, environment.all_containers(self.pod))
            await asyncio.sleep(_RETRY)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "home").mkdir(exist_ok=True)
        metadata = self.pod["metadata"]
        note = {"namespace": metadata["namespace"], "name": metadata["name"]}
        note["gpus"] = self.node.gpus.held(self.uid)
        shim.write_json(self.folder / "pod.json", note)

    async def _run(self, container: Object) -> int:
        """Run one container, or follow the one that runs already; returns its exit code."""
        name = container["name"]
        attempt = self.attempts[name]
        state = self.facts.states.get(name, {})
        if "terminated" in state:
            return state["terminated"]["exitCode"]
        if not attempt.known and name not in self.reported_running:
            await attempt.start(self.node.zygote, await self._prepare(container))
        if attempt.running:
            started = (attempt.started_at or status.now())[:19]
            self._set(container, {"running": {"startedAt": f"{started}Z"}})
        state = self._end_state(container, await attempt.wait())
        self._set(container, state)
        return state["terminated"]["exitCode"]

    async def _prepare(self, container: Object) -> dict[str, Any]:
        """Everything the shim needs to know; waits for what the pod refers to."""
        while True:
            try:
                return await self._launch.spec(container)
            except (volumes.NotReadyError, *UNREACHABLE) as error:
                waiting = {
                    "reason": "CreateContainerConfigError",
                    "message": str(error),
                }
                self._set(container, {"waiting": waiting})
            await asyncio.sleep(_RETRY)

    async def _terminate(self, verdict: status.Verdict) -> None:
        """Stop the containers: SIGTERM, the grace period, SIGKILL; then set states and verdict."""
        for attempt in self.attempts.values():
            if attempt.starting is not None:
                await asyncio.wait([attempt.starting])
        known = {name: a for name, a in self.attempts.items() if a.known}
        ends = asyncio.gather(*(attempt.wait() for attempt in known.values()))
        ends.add_done_callback(lambda _: self.changed.set())
        for attempt in known.values():
            attempt.signal(shim.STOP)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not ends.done() and (left := began + self._grace() - loop.time()) > 0:
            # A second delete may shorten the grace period: look again at each change.
            before = self._grace()
            await self._until(lambda b=before: ends.done() or self._grace() != b, left)
        for attempt in known.values():
            attempt.signal(shim.KILL)
        results = await ends
        if any(c["name"] not in known for c in self.pod["spec"]["containers"]) or (
            verdict.reason or verdict.disrupted
        ):
            self.verdict = verdict
        for container in environment.all_containers(self.pod):
            name = container["name"]
            if name in known and "terminated" not in self.facts.states.get(name, {}):
                result = results[list(known).index(name)]
                self._set(container, self._end_state(container, result))

    def _grace(self) -> float:
        if self.gone:
            return 0
        deletion = self.pod["metadata"].get("deletionGracePeriodSeconds")
        grace = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return grace if deletion is None else deletion

    def _end_state(self, container: Object, end: dict[str, Any] | None) -> status.State:
        attempt = self.attempts[container["name"]]
        if end is None:
            message = "the container's process was lost: the machine or its shim was stopped"
            self.verdict.disrupted = message
            reason = "ContainerStatusUnknown"
            return status.terminated(137, reason, message, attempt.started_at, status.now())
        code, failure = end["exitCode"], end["startError"]
        reason = "StartError" if failure else "Error" if code else "Completed"
        message = failure or termination_message(container, attempt.folder, code)
        return status.terminated(code, reason, message, end["startedAt"], end["finishedAt"])

    def _set(self, container: Object, state: status.State) -> None:
        if self.facts.states.get(container["name"]) != state:
            self.facts.states[container["name"]] = state
            self._dirty.set()

    async def _report(self) -> None:
        """Send the status at each change; ends when the pod has ended and the server knows."""
        while not (self._ended and not self._dirty.is_set()):
            await self._dirty.wait()
            if not self._ended:
                await asyncio.sleep(_COALESCE)
            self._dirty.clear()
            sent = status.build(self.pod, self.facts, self.verdict)
            body = {"metadata": {"uid": self.uid}, "status": sent}
            if not self.gone:
                await self._persist(lambda b=body: self._patch_status(b))

    async def _patch_status(self, body: Object) -> None:
        await self.node.client.patch(self._path() + "/status", body, STRATEGIC)

    async def _delete_object(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        await self._persist(lambda: self.node.client.delete(self._path(), body))

    async def _persist(self, call: Callable[[], Any]) -> None:
        """Make a call until the server has answered; 404 and 409 mean that the pod is gone."""
        while not self.gone:
            try:
                await call()
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
                logger.warning("pod %s: %s", self._name(), error)
                if error.status == 422:
                    return  # the same again would be refused again
            except UNREACHABLE as error:
                logger.warning("pod %s: %s", self._name(), error or type(error).__name__)
            await asyncio.sleep(1)

    async def _until(self, true: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until a condition holds that only changes together with `changed`."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass

    def _seconds_left(self) -> float | None:
        limit = self.pod["spec"].get("activeDeadlineSeconds")
        if limit is None:
            return None
        age = datetime.now(UTC) - datetime.fromisoformat(self.facts.start_time)
        return max(0.0, limit - age.total_seconds())

    def _path(self) -> str:
        metadata = self.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def _name(self) -> str:
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"


def pod_address(uid: str) -> str:
    """A loopback address for the pod: of its own where the system has a whole range of them."""
    if not Path("/proc/self").exists():
        return HOST_ADDRESS
    number = zlib.crc32(uid.encode())
    return f"127.{1 + number % 254}.{number >> 8 & 255}.{1 + (number >> 16) % 254}"


def termination_message(container: Object, folder: Path, code: int) -> str:
    """What the container wrote to its termination log, or the end of its log if so asked."""
    with (folder / "termination").open("rb") as file:
        text = file.read(4096).decode(errors="ignore")
    if text or code == 0 or container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        return text
    return logs.last_text(folder, lines=80, limit=2048)
