"""A model of what runs do in their pods: they take time, end in some way, and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubetune.api import JsonObject
from kubetune.api.run.outcome import ExitCode, Outcome

from tests.simulation.results import DATASET_FOUND, MODEL_FOUND, evaluation_summary

if TYPE_CHECKING:
    from tests.simulation.world import World


UPLOAD_PATIENCE_SECONDS = 300.0
UPLOAD_RETRY_SECONDS = 15.0


@dataclass(frozen=True)
class Script:
    """What a run will do when nobody disturbs it."""

    seconds: float
    end: str
    """succeed, silent (succeeds, and its message is lost), fail, refuse, memory, mute, evict."""


_ENDS = {
    "succeed": "succeeds",
    "silent": "succeeds without a word of it",
    "fail": "fails",
    "refuse": "refuses its inputs",
    "memory": "is killed for its memory",
    "mute": "fails without a word of why",
    "evict": "is evicted",
}


@dataclass(frozen=True)
class Ended:
    """How a run's container ended."""

    result: str
    """succeeded, failed or interrupted."""
    exit_code: int
    message: str = ""
    reason: str = ""


@dataclass(frozen=True)
class RunFacts:
    """Which run it is."""

    name: str
    """Of its pod, or of its job and run in CML."""
    run_key: str
    purpose: str
    attempt: int
    outside: bool = False
    """It runs in CML."""
    batch: str = ""
    """What it is told to train with, where that isn't what the plan says."""


class Run:
    """One process of the runner, in a container or in CML."""

    def __init__(
        self,
        world: World,
        facts: RunFacts,
        plan: JsonObject,
        *,
        report: Callable[[Ended], None],
        evict: Callable[[], None],
    ) -> None:
        self._world = world
        self._report = report
        self._evict = evict
        self._plan = plan
        self.name = facts.name
        self.run_key = facts.run_key
        self.purpose = facts.purpose
        self.attempt = facts.attempt
        self.outside = facts.outside
        self.batch = facts.batch
        self.owner: str = plan["run"]["uid"]
        """Uid of the object that the run was made for."""
        self.owner_name: str = plan["run"]["name"]
        self.started = 0.0
        self.stopping_at: float | None = None
        self.ended: Ended | None = None
        self.ended_at: float | None = None
        self.tracked = ""
        """Id of its run at the tracking server."""
        self._script = world.script(self)

    def start(self) -> None:
        """The process has started."""
        world = self._world
        self.started = world.now_seconds()
        end = f"{_ENDS[self._script.end]} after {self._script.seconds:.0f} s"
        world.tell("run", f"{self.name} of {self.owner_name} starts, and left alone {end}")
        world.ledger.run_started(self)
        if self.purpose != "inspect":
            self._open()
        world.later(self._script.seconds, self._finish)

    def stop(self) -> None:
        """SIGTERM."""
        if self.ended is None and self.stopping_at is None:
            self.stopping_at = self._world.now_seconds()
            grace = self._world.draw.choice((0.1, 1.0, 10.0, 29.0))
            self._world.later(grace, self._interrupted)

    def end(self, ended: Ended) -> None:
        """It is over."""
        if self.ended is not None:
            return
        self.ended, self.ended_at = ended, self._world.now_seconds()
        is_cut = "was" if ended.result == "interrupted" else "has"
        told = f"{self.name} {is_cut} {ended.result} (exit code {ended.exit_code})"
        self._world.tell("run", told)
        if self.tracked and ended.exit_code != 137:
            self._world.tracker.close_run(self.tracked, ended.result == "succeeded", self._plan)
        self._world.ledger.run_ended(self)
        self._report(ended)

    def _open(self) -> bool:
        tracker = self._world.tracker
        if not self.tracked and tracker.is_up():
            tracking = self._plan["tracking"]
            self.tracked = tracker.open_run(
                self.run_key, tracking["experiment"], self.attempt, self._plan
            )
        return bool(self.tracked)

    def _interrupted(self) -> None:
        if self._script.end == "memory":
            self.end(Ended("failed", 137, reason="OOMKilled"))
            return
        outcome = Outcome(status="interrupted", reason="Interrupted", retryable=True)
        self.end(Ended("interrupted", int(ExitCode.INTERRUPTED), outcome.to_message()))

    def _finish(self) -> None:
        if self.ended is not None:
            return
        match self._script.end:
            case "succeed" | "silent":
                self._succeed(UPLOAD_PATIENCE_SECONDS)
            case "refuse":
                self._fail("Refused", ExitCode.REFUSED, retryable=False)
            case "memory":
                self.end(Ended("failed", 137, reason="OOMKilled"))
            case "mute":
                self.end(Ended("failed", 1))
            case "evict":
                self._evict()
            case _:
                self._fail("TrainingFailed", ExitCode.FAILED, retryable=True)

    def _fail(self, reason: str, code: ExitCode, *, retryable: bool) -> None:
        outcome = Outcome(status="failed", reason=reason, message="as drawn", retryable=retryable)
        self.end(Ended("failed", int(code), outcome.to_message()))

    def _succeed(self, patience: float) -> None:
        if self.ended is not None:
            return
        reports = self.purpose != "inspect"
        if reports and not (self._open() and self._world.tracker.is_up()):
            if patience <= 0:
                self._fail("UploadFailed", ExitCode.FAILED, retryable=True)
                return
            left = patience - UPLOAD_RETRY_SECONDS
            self._world.later(UPLOAD_RETRY_SECONDS, lambda: self._succeed(left))
            return
        summary, reason = self._summary()
        if reports:
            self._world.tracker.keep_result(self.tracked, self.attempt, self._plan, summary)
        outcome = Outcome(status="succeeded", reason=reason, summary=summary)
        message = "" if self._script.end == "silent" and reports else outcome.to_message()
        self.end(Ended("succeeded", 0, message))

    def _summary(self) -> tuple[JsonObject, str]:
        match self._plan["kind"]:
            case "inspectDataset":
                return DATASET_FOUND, "Inspected"
            case "inspectModel":
                found = MODEL_FOUND
                if (self._plan["model"].get("base") or {}) != {}:
                    found = MODEL_FOUND | {"type": "adapter"}
                return found, "Inspected"
            case "train":
                summary: JsonObject = {
                    "metrics": {"eval_loss": 0.5},
                    "runId": self.tracked,
                    "modelId": f"m-{self.tracked}",
                    "steps": 100,
                }
                return summary, "Trained"
            case _:
                return evaluation_summary(self._plan), "Evaluated"
