"""What a Job and its pods tell about an attempt: one table of named cases."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from backend_objects import condition, job, pod, terminated, waiting
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.targets.kubernetes.states import run_state

TRAINED = Outcome(status="succeeded", reason="Trained", message="done", summary={"steps": 3})
CHANGED = Outcome(status="failed", reason="DatasetChanged", message="rows differ")
STOPPED = Outcome(status="interrupted", reason="Interrupted", retryable=True)
COMPLETE = job(condition("Complete"))
FAILED = job(condition("Failed", reason="BackoffLimitExceeded"))
EVICTED = condition("DisruptionTarget", message="Eviction API: evicting")
RUNNING = {"running": {"startedAt": "2026-01-02T03:04:05Z"}}


def init(state: JsonObject) -> JsonObject:
    """Status of a pod with an init container in this state, after one that is done."""
    states = {"first": terminated(0, "Completed"), "fetch": state}
    given = [{"name": name, "image": "i", "state": state} for name, state in states.items()]
    return {"initContainerStatuses": given}


@dataclass
class Case:
    name: str
    job: JsonObject
    pods: list[JsonObject]
    phase: str
    reason: str
    says: str = ""
    exit_code: int | None = None
    outcome: Outcome | None = field(default=None)


CASES = [
    Case("no pod yet", job(), [], "pending", "PodPending", "kubectl describe job tickets-1"),
    Case("queue holds it", job(suspend=True), [], "pending", "Queued", "Kueue"),
    Case("queue preempts it", job(suspend=True), [pod("Running")], "stopping", "Queued"),
    Case(
        "no node fits",
        job(),
        [pod("Pending", condition("PodScheduled", "False", message="0/3 nodes: no GPU"))],
        "pending",
        "Unschedulable",
        "0/3 nodes: no GPU",
    ),
    Case(
        "scheduling gate",
        job(),
        [pod("Pending", condition("PodScheduled", "False", reason="SchedulingGated"), node=None)],
        "pending",
        "Queued",
    ),
    Case("scheduler is slow", job(), [pod(node=None)], "pending", "PodPending", "scheduler."),
    Case(
        "own scheduler is slow",
        job(),
        [pod(node=None) | {"spec": {"schedulerName": "gangs"}}],
        "pending",
        "PodPending",
        "The pod waits for the scheduler gangs.",
    ),
    Case(
        "init container runs",
        job(),
        [pod(state=waiting("PodInitializing", ""), **init(RUNNING))],
        "pending",
        "PodPending",
        "Init container fetch runs",
    ),
    Case(
        "init container fails",
        FAILED,
        [
            pod(
                "Failed",
                state=waiting("PodInitializing", ""),
                **init(terminated(3, message="a\nno weights at https://me:secret@host/x\n")),
            )
        ],
        "failed",
        "InitContainerFailed",
        "init container fetch ended with exit code 3: no weights at https://",
    ),
    Case(
        "init container has too little memory",
        FAILED,
        [pod("Failed", state=waiting("PodInitializing", ""), **init(terminated(137, "OOMKilled")))],
        "failed",
        "InitContainerFailed",
        "exit code 137 (SIGKILL), OOMKilled",
    ),
    Case(
        "pod with an init container is evicted",
        FAILED,
        [pod("Failed", EVICTED, state=waiting("PodInitializing", ""), **init(terminated(143)))],
        "preempted",
        "Disrupted",
    ),
    *(
        Case(
            f"image: {reason}",
            job(),
            [pod(state=waiting(reason, "not found"))],
            "pending",
            "ImageUnavailable",
            f"registry.example/runner:1 can't be pulled ({reason}): not found",
        )
        for reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")
    ),
    Case(
        "Secret is missing",
        job(),
        [pod(state=waiting("CreateContainerConfigError", 'secret "hub" not found'))],
        "pending",
        "CreateContainerConfigError",
        'secret "hub" not found',
    ),
    Case(
        "being set up",
        job(),
        [pod(state=waiting("ContainerCreating"))],
        "pending",
        "PodPending",
        "node-1",
    ),
    Case("runs", job(), [pod("Running", state=RUNNING)], "running", "Started"),
    Case("node is silent", job(), [pod("Unknown", state=RUNNING)], "running", "Started"),
    Case("evicted, still there", job(), [pod("Running", EVICTED)], "running", "Disrupted"),
    Case("evicted, gone", job(), [pod("Failed", EVICTED)], "pending", "Disrupted", "new one"),
    Case(
        "runs again after an eviction",
        job(),
        [pod("Running", state=RUNNING, created="2026-01-02T04:00:00Z"), pod("Failed", EVICTED)],
        "running",
        "Started",
    ),
    Case(
        "pod done, Job not yet: not final",
        job(condition("SuccessCriteriaMet")),
        [pod("Succeeded", state=terminated(0, "Completed", TRAINED.to_message()))],
        "running",
        "Ending",
    ),
    Case(
        "deadline passed, pod in its grace",
        job(condition("FailureTarget", reason="DeadlineExceeded", message="too long")),
        [pod("Running", state=RUNNING)],
        "stopping",
        "DeadlineExceeded",
        "too long",
    ),
    Case("being deleted", job(deleted=True), [pod("Running")], "stopping", "Stopping"),
    Case("being deleted, pod gone", job(deleted=True), [], "stopping", "Stopping"),
    Case(
        "succeeded",
        COMPLETE,
        [pod("Succeeded", state=terminated(0, "Completed", TRAINED.to_message()))],
        "succeeded",
        "Trained",
        "done",
        exit_code=0,
        outcome=TRAINED,
    ),
    Case("succeeded, pod cleaned up", COMPLETE, [], "succeeded", ""),
    Case(
        "succeeded and being deleted",
        {**COMPLETE, "metadata": job(deleted=True)["metadata"]},
        [],
        "succeeded",
        "",
    ),
    Case(
        "refused by the runner",
        FAILED,
        [pod("Failed", state=terminated(64, message=CHANGED.to_message()))],
        "failed",
        "DatasetChanged",
        "rows differ",
        exit_code=64,
        outcome=CHANGED,
    ),
    Case(
        "interrupted with an outcome",
        FAILED,
        [pod("Failed", state=terminated(75, message=STOPPED.to_message()))],
        "preempted",
        "Interrupted",
        exit_code=75,
        outcome=STOPPED,
    ),
    Case(
        "interrupted without one",
        FAILED,
        [pod("Failed", state=terminated(75))],
        "preempted",
        "RunFailed",
        exit_code=75,
    ),
    Case(
        "out of memory",
        FAILED,
        [pod("Failed", state=terminated(137, "OOMKilled"))],
        "failed",
        "OutOfMemory",
        "spec.resources.memory",
        exit_code=137,
    ),
    Case(
        "killed",
        FAILED,
        [pod("Failed", state=terminated(137))],
        "failed",
        "RunFailed",
        "exit code 137 (SIGKILL)",
        exit_code=137,
    ),
    Case(
        "crashed: the last line of its log",
        FAILED,
        [pod("Failed", state=terminated(1, message="Traceback\n  File x\nImportError: no y\n"))],
        "failed",
        "RunFailed",
        "exit code 1: ImportError: no y",
        exit_code=1,
    ),
    Case(
        "can't start",
        FAILED,
        [pod("Failed", state=terminated(128, "StartError", "exec: python: not found"))],
        "failed",
        "StartError",
        "python: not found",
        exit_code=128,
    ),
    Case(
        "node refuses the pod",
        FAILED,
        [pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu")],
        "failed",
        "OutOfcpu",
        "enough resource: cpu",
    ),
    Case(
        "evicted where nothing replaces it",
        FAILED,
        [pod("Failed", EVICTED, reason="Evicted")],
        "preempted",
        "Disrupted",
        "Eviction API",
    ),
    Case("pod deleted by hand", FAILED, [], "failed", "PodLost"),
    Case(
        "deadline",
        job(condition("Failed", reason="DeadlineExceeded")),
        [],
        "failed",
        "DeadlineExceeded",
        "activeDeadlineSeconds",
    ),
    Case(
        "a failed pod decides, whenever another was evicted",
        FAILED,
        [
            pod("Failed", EVICTED, created="2026-01-02T05:00:00Z"),
            pod("Failed", state=terminated(1, message=CHANGED.to_message())),
        ],
        "failed",
        "DatasetChanged",
        exit_code=1,
        outcome=CHANGED,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_run_state(case: Case):
    state = run_state(case.job, case.pods)
    assert (state.phase, state.reason) == (case.phase, case.reason)
    assert case.says in state.message
    assert state.exit_code == case.exit_code
    assert state.outcome == case.outcome
    assert (state.attempt, state.name) == (1, "tickets-1")


LOST = Outcome(status="failed", reason="WorkerLost", message="peer is gone", retryable=True)
CRASHED = Outcome(status="failed", reason="UnexpectedError", message="boom", retryable=True)


def group(*conditions: JsonObject) -> JsonObject:
    made = job(*conditions)
    return made | {"spec": {"completions": 2}}


def worker(number: int, made: JsonObject, *, ended: str = "") -> JsonObject:
    annotation = {"batch.kubernetes.io/job-completion-index": str(number)}
    made["metadata"]["annotations"] = annotation
    if ended:
        made["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = ended
    return made


def fallen(outcome: Outcome | None, code: int = 1, *conditions: JsonObject) -> JsonObject:
    message = outcome.to_message() if outcome else ""
    return pod("Failed", *conditions, state=terminated(code, message=message))


EARLY, LATE = "2026-01-02T03:05:00Z", "2026-01-02T03:06:00Z"
BLAMED = "worker 1 of 2: "
GROUPS = [
    ("one pod so far", group(), [worker(0, pod("Running"))], "pending", "PodPending", "1 of its 2"),
    (
        "one waits for a node",
        group(),
        [worker(0, pod("Running")), worker(1, pod(node=None))],
        "pending",
        "PodPending",
        f"{BLAMED}The pod waits for the scheduler",
    ),
    (
        "all run",
        group(),
        [worker(1, pod("Running")), worker(0, pod("Running"))],
        "running",
        "Started",
        "",
    ),
    (
        "one is done before the other",
        group(),
        [worker(0, pod("Running")), worker(1, pod("Succeeded"))],
        "running",
        "Started",
        "",
    ),
    (
        "worker 0 tells of success",
        group(condition("Complete")),
        [
            worker(1, pod("Succeeded", state=terminated(0, "Completed"))),
            worker(0, pod("Succeeded", state=terminated(0, "Completed", TRAINED.to_message()))),
        ],
        "succeeded",
        "Trained",
        "done",
    ),
    (
        "the one that crashed is blamed, not the one that lost it",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(LOST), ended=EARLY), worker(1, fallen(CRASHED), ended=LATE)],
        "failed",
        "UnexpectedError",
        f"{BLAMED}boom",
    ),
    (
        "killed without a word",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(LOST), ended=EARLY), worker(1, fallen(None, 137), ended=EARLY)],
        "failed",
        "RunFailed",
        f"{BLAMED}The run ended with exit code 137",
    ),
    (
        "aborted by the exchange of gradients",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(None, 134), ended=EARLY), worker(1, fallen(None, 137), ended=EARLY)],
        "failed",
        "RunFailed",
        f"{BLAMED}The run ended with exit code 137",
    ),
    (
        "the first of two crashes counts",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(CHANGED), ended=LATE), worker(1, fallen(CRASHED), ended=EARLY)],
        "failed",
        "UnexpectedError",
        f"{BLAMED}boom",
    ),
    (
        "only the one that lost the other is left",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(LOST), ended=EARLY)],
        "failed",
        "WorkerLost",
        "worker 0 of 2: peer is gone",
    ),
    (
        "all were stopped",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(STOPPED, 75)), worker(1, fallen(STOPPED, 75))],
        "preempted",
        "Interrupted",
        "",
    ),
    (
        "one was stopped before training, the other lost it",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(LOST), ended=EARLY), worker(1, fallen(STOPPED, 75), ended=LATE)],
        "preempted",
        "Interrupted",
        "",
    ),
    (
        "one was evicted",
        group(condition("Failed", reason="BackoffLimitExceeded")),
        [worker(0, fallen(LOST), ended=EARLY), worker(1, fallen(None, 143, EVICTED))],
        "preempted",
        "Disrupted",
        f"{BLAMED}The pod was evicted",
    ),
    (
        "one was evicted, and its pod is gone",
        group(condition("Failed", reason="PodFailurePolicy")),
        [worker(0, fallen(LOST), ended=EARLY)],
        "preempted",
        "WorkerLost",
        "",
    ),
    ("no pod is left", group(condition("Failed")), [], "failed", "PodLost", ""),
]


@pytest.mark.parametrize(
    ("made", "pods", "phase", "reason", "says"),
    [pytest.param(*case[1:], id=case[0]) for case in GROUPS],
)
def test_several_workers(
    made: JsonObject, pods: list[JsonObject], phase: str, reason: str, says: str
) -> None:
    state = run_state(made, pods)
    assert (state.phase, state.reason) == (phase, reason)
    assert says in state.message
    assert state.outcome is None or says in state.outcome.message


def test_times_are_those_of_the_container():
    ended = run_state(FAILED, [pod("Failed", state=terminated(1))])
    assert ended.started_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert ended.ended_at == datetime(2026, 1, 2, 3, 9, 5, tzinfo=UTC)
    assert run_state(job(), [pod("Running", state=RUNNING)]).started_at == ended.started_at
    assert run_state(COMPLETE, []).ended_at == ended.ended_at


@pytest.mark.parametrize(
    "line",
    [
        "ConnectionError: https://me:hunter2@mlflow.example/x",
        "refused token hf_hunter2hunter2hunter2",
        "sent Authorization: Bearer hunter2",
    ],
)
def test_a_log_line_in_status_shows_no_secret(line: str):
    state = run_state(FAILED, [pod("Failed", state=terminated(1, message=line))])
    assert "***" in state.message
    assert "hunter2" not in state.message


def test_a_log_line_in_status_is_bounded():
    state = run_state(FAILED, [pod("Failed", state=terminated(1, message="x" * 4000))])
    assert len(state.message) <= 500


def test_a_run_without_an_outcome_leaves_the_end_of_its_log_without_credentials() -> None:
    text = "step 1\nno https://me:hunter2@hub.example today\nhf_abcdefghijklmnopqrstuvwxyz\n"
    pods = [pod("Failed", state=terminated(137, "OOMKilled", message=text))]
    state = run_state(FAILED, pods)
    assert state.log == "step 1\nno https://***@hub.example today\n***"
    told = [pod("Failed", state=terminated(1, message=CHANGED.to_message()))]
    assert run_state(FAILED, told).log == ""
    moved = [pod("Failed", EVICTED, state=terminated(143, message="half way"))]
    assert run_state(FAILED, moved).log == "", "only what failed is kept"
