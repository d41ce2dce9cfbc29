"""The life of a job under whatever may happen to it, in any order.

``World`` stands for target and tracker: it does what the actions say. hypothesis chooses what
happens between two decisions; after each decision the promises of the design must hold.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from builders import (
    CRASHED,
    DATASET_FOUND,
    NOW,
    REFUSED,
    TRACKED,
    TRAINED,
    VERSION,
    assert_fits,
    attempt,
    condition_of,
    dataset,
    job,
    kstatus,
    names,
    observed_job,
    ready,
    ready_reason,
    tried,
)
from builders import (
    run as seen,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.api.conditions import TERMINAL_PHASES
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import RunPlan
from kubetune.decide.decision import (
    Action,
    Decision,
    DeleteRuns,
    FindIdentical,
    FindRun,
    Register,
    StartRun,
    StopRuns,
)
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.resources import Target, TargetProblem
from kubetune.targets.values import FINISHED, RunRequest, RunState

AWAY = TargetProblem("CredentialsInvalid", "the workspace refuses the API key")
LONG = Outcome(status="failed", reason="Long", message="m" * 1024, retryable=True)
ENDS: dict[str, tuple[str, Outcome | None]] = {
    "succeeds": ("succeeded", TRAINED),
    "succeeds in silence": ("succeeded", None),
    "fails": ("failed", CRASHED),
    "fails with many words": ("failed", LONG),
    "fails for good": ("failed", REFUSED),
    "is evicted": ("preempted", None),
}
EVENTS = st.sampled_from(
    [
        *ENDS,
        "runs",
        "is gone",
        "is stopped by hand",
        "waits too long",
        "target goes",
        "target comes",
        "old Jobs are deleted",
        "suspend",
        "resume",
        "operator restarts",
        "tracker goes",
        "tracker comes",
        "a minute passes",
        "an hour passes",
        "profile or data change",
    ]
)
SPECS = st.fixed_dictionaries(
    {"backoffLimit": st.sampled_from([0, 1, 20])},
    optional={
        "output": st.sampled_from([{"registry": {}}, {"modelName": "out"}]),
        "reuse": st.just("Never"),
        "activeDeadlineSeconds": st.sampled_from([90, 10000]),
        "waitingDeadlineSeconds": st.sampled_from([30, 90, 10000]),
        "queueDeadlineSeconds": st.sampled_from([30, 90, 10000]),
        "onOutOfMemory": st.sampled_from(["Fail", "HalveBatch"]),
    },
)


@dataclass
class World:
    """Target, tracker and the stored object."""

    spec: JsonObject
    now: datetime = NOW
    status: JsonObject = field(default_factory=dict[str, Any])
    runs: dict[int, RunState] = field(default_factory=dict[int, RunState])
    answers: TrackerAnswers = field(default_factory=TrackerAnswers)
    tracker_answers: bool = True
    target_answers: bool = True
    started: list[int] = field(default_factory=list[int])
    batches: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """What the plan of each attempt says: batch and accumulation."""
    digest: str = "sha256:d1"

    @property
    def live(self) -> list[RunState]:
        return [run for run in self.runs.values() if run.phase not in FINISHED]

    def happens(self, event: str) -> None:
        for run in self.live:
            if event in ENDS:
                phase, outcome = ENDS[event]
                self._change(run, phase=phase, outcome=outcome, ended_at=self.now)
            elif event == "runs" and run.phase == "pending":
                self._change(run, phase="running", started_at=self.now)
            elif event == "is gone":
                del self.runs[run.attempt]
            elif event == "is stopped by hand":
                why = {"reason": "StoppedByHand", "message": "it was stopped"}
                self._change(run, phase="stopped", ended_at=self.now, **why)
            elif event == "waits too long" and run.phase == "pending":
                self._change(run, overdue=True, reason="SchedulingTimedOut")
        match event:
            case "old Jobs are deleted":
                self.runs = {run.attempt: run for run in self.live}
            case "suspend" | "resume":
                self.spec = self.spec | {"suspend": event == "suspend"}
            case "operator restarts":
                self.answers = TrackerAnswers()
            case "tracker goes" | "tracker comes":
                self.tracker_answers = event == "tracker comes"
            case "target goes" | "target comes":
                self.target_answers = event == "target comes"
            case "a minute passes":
                self.now += timedelta(minutes=1)
            case "an hour passes":
                self.now += timedelta(hours=1)
            case "profile or data change":
                self.digest += "x"
            case _:
                pass

    def decide(self) -> Decision[Any]:
        """Decide twice on the same: the answer is the same, and the arguments stay as they are."""
        given = observed_job(
            job(self.spec, status=self.status),
            dataset=ready(dataset(), **(DATASET_FOUND | {"digest": self.digest})),
            runs=[self.runs[number] for number in sorted(self.runs) if self.target_answers],
            target_problem=None if self.target_answers else AWAY,
            answers=self.answers,
            tracked=TRACKED if self.live else None,
        )
        before = copy.deepcopy(self.status)
        decision = decide(given, self.now)
        assert decision == decide(given, self.now)
        assert self.status == before
        return decision

    def act(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case StartRun(request):
                    assert not self.live, "one live run at most"
                    assert request.attempt not in self.runs, "a run is started once"
                    self.started.append(request.attempt)
                    self._take_batch(request)
                    run = RunState(request.attempt, f"tune-{request.attempt}", "pending")
                    self.runs[request.attempt] = run
                case StopRuns():
                    for run in self.live:
                        self._change(run, phase="stopping")
                case FindIdentical() | FindRun() | Register():
                    self._learn(action)
                case _:
                    pass

    def _take_batch(self, request: RunRequest) -> None:
        plan = RunPlan.model_validate(request.plan).model_copy(update={"batch": request.batch})
        numbers = plan.in_force.training.hyperparameters
        batch = numbers.per_device_batch_size, numbers.gradient_accumulation_steps
        before = self.batches.get(request.attempt - 1, (8, 1))
        assert batch[0] * batch[1] == 8, "a step learns from what is declared"
        known = {item["number"]: item.get("reason") for item in self.status.get("attempts", ())}
        ran_out = known.get(request.attempt - 1) == "OutOfMemory"
        halves = ran_out and self.spec.get("onOutOfMemory") == "HalveBatch"
        assert batch[0] == (before[0] // 2 if halves else before[0])
        assert self.batches.setdefault(request.attempt, batch) == batch, "one attempt, one plan"

    def _learn(self, action: Action) -> None:
        if not self.tracker_answers:
            self.answers = replace(self.answers, tracking_error="mlflow: no answer")
            return
        self.answers = replace(self.answers, tracking_error="")
        match action:
            case FindIdentical():
                self.answers = replace(self.answers, identical_sought=True)
            case FindRun():
                self.answers = replace(self.answers, run_sought=True)
            case _:
                self.answers = replace(self.answers, registered=VERSION)

    def _change(self, run: RunState, **fields: Any) -> None:
        self.runs[run.attempt] = replace(run, **fields)

    def reconcile(self, *, write: bool = True) -> None:
        """Rounds until nothing is left to do, then one write, which a crash may prevent."""
        stored = self.status
        for _ in range(6):
            before = (self.status, dict(self.runs), self.answers)
            over = self.status.get("phase") in TERMINAL_PHASES
            decision = self.decide()
            if not self.target_answers and not over:
                assert not decision.actions, "what is not known is not acted upon"
                assert (decision.status or {}).get("attempts") == self.status.get("attempts")
            if over:
                assert not any(isinstance(a, StartRun) for a in decision.actions), "over is over"
            if decision.status is not None:
                check_conditions(self.status, decision.status)
                self.status = decision.status
            self.act(decision.actions)
            if not decision.actions or before == (self.status, self.runs, self.answers):
                break
        if not write:
            self.status = stored
        self.answers = replace(self.answers, tracking_error="", run_sought=False)


def check_conditions(old: JsonObject, new: JsonObject) -> None:
    """A transition time changes with the status of its condition, and only then."""
    before = {item["type"]: item for item in old.get("conditions", ())}
    for item in new["conditions"]:
        known = before.get(item["type"])
        if known and known["status"] == item["status"]:
            assert item["lastTransitionTime"] == known["lastTransitionTime"]
    types = [item["type"] for item in new["conditions"]]
    assert len(types) == len(set(types))
    states = {item["type"]: item["status"] for item in new["conditions"]}
    assert not (states.get("Reconciling") == "True" and states.get("Stalled") == "True")


@settings(max_examples=150, deadline=None)
@given(SPECS, st.lists(st.tuples(EVENTS, st.booleans()), max_size=30))
def test_promises_hold_whatever_happens(spec: JsonObject, events: list[tuple[str, bool]]) -> None:
    """The second of a pair tells whether the operator is killed before it writes the status."""
    world = World(spec)
    for event, killed in events:
        phase, started = world.status.get("phase"), len(world.started)
        world.happens(event)
        world.reconcile(write=not killed)
        if world.target_answers:
            waiting = [run for run in world.live if run.overdue and run.phase == "pending"]
            assert not waiting, "nothing waits longer than it may"
        assert_fits("FineTuneJob", world.status)
        for item in world.status.get("attempts", ()):
            told = item.get("perDeviceBatchSize", 8), item.get("gradientAccumulationSteps", 1)
            assert told == world.batches[item["number"]], "status tells what each trained with"
        if phase in TERMINAL_PHASES:
            assert world.status["phase"] == phase, "terminal phases stay"
            assert len(world.started) == started
    # Once nothing happens any more, deciding again changes nothing.
    world.reconcile()
    settled, started = copy.deepcopy(world.status), len(world.started)
    world.reconcile()
    assert world.status == settled
    assert len(world.started) == started


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*ENDS, "is gone", "an hour passes", "runs"]), max_size=60))
def test_counts_tell_what_happened(events: list[str]) -> None:
    world = World({"backoffLimit": 100})
    world.reconcile()
    failed = preempted = 0
    for event in events:
        if world.live and world.status["phase"] not in TERMINAL_PHASES:
            failed += event in ("fails", "fails with many words", "fails for good", "is gone")
            preempted += event == "is evicted"
        world.happens(event)
        world.reconcile()
    counts = world.status["counts"]
    assert counts == {"total": len(world.started), "failed": failed, "preempted": preempted}
    assert world.started == list(range(1, len(world.started) + 1))


# --- targets outside of the cluster

CML: JsonObject = {
    "cml": {
        "url": "https://ml.example.com",
        "project": "tuning",
        "apiKeySecretRef": {"name": "key"},
        "runtime": {"kernel": "Python 3.11"},
    },
    "tracking": {"uri": "http://mlflow:5000"},
}
WORKSPACE = Target("ComputeTarget", "main", ComputeTargetSpec.model_validate(CML), True, "")


def deleted(policy: str = "Delete", **fields: Any) -> Decision[Any]:
    given = observed_job(
        job({"deletionPolicy": policy}, deleting=True, status=tried(attempt(1, "Running"))),
        target=WORKSPACE,
        **fields,
    )
    return decide(given, NOW)


def test_what_outlives_the_object_is_deleted_before_it_goes():
    over = deleted(runs=[seen(1, "stopped")])
    assert names(over) == ["DeleteRuns", "ReleaseFinalizer"]
    assert isinstance(over.actions[0], DeleteRuns)
    assert names(deleted(runs=[seen(1, "running")])) == ["StopRuns"]
    assert names(deleted("Orphan", runs=[seen(1, "running")])) == ["OrphanRuns", "ReleaseFinalizer"]
    assert names(deleted("Orphan", runs=[seen(1, "stopped")])) == ["ReleaseFinalizer"]


def test_a_target_that_does_not_answer_holds_a_deleted_job_unless_it_may_leave_its_runs():
    held = deleted(target_problem=AWAY)
    assert held.actions == ()
    assert ready_reason(held) == ("False", "CredentialsInvalid")
    assert held.requeue_after
    assert names(deleted("Orphan", target_problem=AWAY)) == ["ReleaseFinalizer"]


def test_a_run_that_somebody_stopped_cancels_the_job():
    by_hand = seen(1, "stopped", reason="StoppedByHand", message="The run was stopped in CML.")
    given = job({"backoffLimit": 3}, status=tried(attempt(1, "Running")))
    decision = decide(observed_job(given, target=WORKSPACE, runs=[by_hand]), NOW)
    status = decision.status
    assert status
    assert decision.actions == ()
    assert status["phase"] == "Cancelled"
    assert status["counts"]["failed"] == 0
    assert "make a new job" in status["failure"]["message"]
    assert kstatus(status, 1) == "Failed"


def test_a_run_that_waited_too_long_is_stopped_and_repeated():
    waiting = seen(1, "pending", overdue=True, reason="SchedulingTimedOut", message="no room")
    given = job({"backoffLimit": 1}, status=tried(attempt(1, "Running")))
    decision = decide(observed_job(given, target=WORKSPACE, runs=[waiting]), NOW)
    assert names(decision) == ["StopRuns"]
    stopped = seen(1, "failed", reason="SchedulingTimedOut", message="no room")
    decision = decide(observed_job(given, target=WORKSPACE, runs=[stopped]), NOW)
    assert decision.status
    assert decision.status["counts"]["failed"] == 1
    assert ready_reason(decision) == ("False", "Retrying")


def test_a_status_that_nobody_knows_is_shown():
    given = job(status=tried(attempt(1, "Running")))
    unsure = seen(1, "running", reason="StatusUnknown", message="CML says UNKNOWN about the run")
    status = decide(observed_job(given, target=WORKSPACE, runs=[unsure]), NOW).status
    assert status
    assert condition_of(status, "Running") == ("Unknown", "StatusUnknown")
    assert status["phase"] == "Running"
    assert_fits("FineTuneJob", status)
