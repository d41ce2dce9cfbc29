"""docs/status.md says what decide does: the table of phases, and every reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import (
    CRASHED,
    NOW,
    TRAINED,
    VERSION,
    ago,
    assert_fits,
    attempt,
    condition,
    condition_of,
    job,
    kstatus,
    model,
    observed_job,
    resource,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.conditions import TERMINAL_PHASES, Phase, Reason
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.resources import TargetProblem
from kubetune.decide.target.refused import start_refused
from kubetune.targets.errors import BackendError

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/status.md").read_text()
REGISTRY: JsonObject = {"output": {"registry": {}}}
CONDITIONS = ("Ready", "Reconciling", "Stalled", "Running", "Complete", "Failed")


def status(given: Any = None, **around: Any) -> Any:
    return decide(observed_job(given, **around), NOW).status or {}


def refused(*, retryable: bool) -> Any:
    error = BackendError("QuotaExceeded", "no room", retryable=retryable)
    return start_refused(status(), error, 1, NOW)[0]


RUNNING = tried(attempt(1, "Running"), conditions=[])
QUEUED = tried(
    attempt(1, "Running", startTime=None),
    conditions=[],
    queueTime={"seconds": 0, "since": ago(60)},
)
del QUEUED["attempts"][0]["startTime"]
TAKEN_BACK = QUEUED | {"conditions": [condition("Running", "False", reason="QueuedTooLong")]}
SCENARIOS: dict[str, JsonObject] = {
    "the spec can't be read": status(resource("FineTuneJob", "tune", None)),
    "something it names is missing": status(model=None),
    "its inputs don't fit together": status(job({"hyperparameters": {"maxLength": 4096}})),
    "the target refuses the run for now": refused(retryable=True),
    "the target refuses the run for good": refused(retryable=False),
    "something it names isn't Ready": status(model=model()),
    "the registry is asked for an identical version": status(job(REGISTRY)),
    "an attempt was submitted": status(),
    "the attempt's pod waits": status(job(status=RUNNING), runs=[run(1, "pending")]),
    "an attempt failed and the next one follows": status(
        job(status=RUNNING), runs=[run(1, "failed", CRASHED)]
    ),
    "the tracking server is asked whether a run had finished": status(
        job(status=tried(attempt(1, "Stopped"), conditions=[]))
    ),
    "an attempt is running": status(job(status=RUNNING), runs=[run(1, "running")]),
    "suspended, and the run is being stopped": status(
        job({"suspend": True}, status=RUNNING), runs=[run(1, "running")]
    ),
    "resumed, or deleted by somebody, and the run is being stopped": status(
        job(status=RUNNING), runs=[run(1, "stopping")]
    ),
    "suspended, and nothing runs": status(job({"suspend": True})),
    "the result is being registered": status(
        job(REGISTRY, status=RUNNING), runs=[run(1, "succeeded", TRAINED)]
    ),
    "the output Model's name was taken meanwhile": status(
        job({"output": {"modelName": "out"}}, status=RUNNING),
        runs=[run(1, "succeeded", TRAINED)],
        output_rival="Model out exists already",
    ),
    "the run has ended well": status(job(status=RUNNING), runs=[run(1, "succeeded", TRAINED)]),
    "an identical version was adopted": status(
        job(REGISTRY), answers=TrackerAnswers(identical=VERSION, identical_sought=True)
    ),
    "the deadline is over, and the run is being stopped": status(
        job({"activeDeadlineSeconds": 1}, status=RUNNING), runs=[run(1, "running")]
    ),
    "an attempt queued for too long, and is being taken back": status(
        job({"queueDeadlineSeconds": 60}, status=QUEUED), runs=[run(1, "pending")]
    ),
    "an attempt queued for longer than `queueDeadlineSeconds`": status(
        job({"queueDeadlineSeconds": 60}, status=TAKEN_BACK)
    ),
    "it waited for longer than `waitingDeadlineSeconds`": status(
        job({"waitingDeadlineSeconds": 60}, status={"waitTime": {"seconds": 0, "since": ago(60)}}),
        model=None,
    ),
    "attempts, time or the run's own verdict ended it": status(
        job({"backoffLimit": 0}, status=RUNNING), runs=[run(1, "failed", CRASHED)]
    ),
    "somebody stopped the run in CML": status(
        job(status=RUNNING), runs=[run(1, "stopped", reason="StoppedByHand")]
    ),
    "the workspace doesn't answer, and an attempt was running": status(
        job(status=RUNNING), target_problem=TargetProblem("TargetUnreachable", "refused")
    ),
}


def rows(first: str) -> Iterator[list[str]]:
    """Cells of all tables whose first column has this title."""
    inside = False
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not set(line) <= set("|-"):
            yield cells


PHASES = list(rows("phase"))


@pytest.mark.parametrize("row", PHASES, ids=lambda row: f"{row[0]}: {row[1]}")
def test_phase(row: list[str]) -> None:
    phase, when, *states, verdict = row
    found = SCENARIOS[when]
    assert found.get("phase", "-") == phase
    shown = [condition_of(found, kind) for kind in CONDITIONS]
    assert [state[0] if state else "-" for state in shown] == states
    assert kstatus(found, 1) == verdict
    assert kstatus(found, 2) == "InProgress", "a newer spec is not looked at yet"
    assert_fits("FineTuneJob", found)


def test_table_has_every_scenario_and_phase() -> None:
    assert [row[1] for row in PHASES] == list(SCENARIOS)
    assert {row[0] for row in PHASES} - {"-"} == set(Phase)


def test_final_phases_are_settled_for_kstatus() -> None:
    verdicts = {row[0]: row[-1] for row in PHASES if row[0] in TERMINAL_PHASES}
    assert verdicts == {"Succeeded": "Current", "Failed": "Failed", "Cancelled": "Failed"}


def test_every_reason_is_explained_once() -> None:
    explained = [row[0].strip("`") for row in rows("reason")]
    assert sorted(explained) == sorted(Reason)
    assert all(len(row) == 3 and row[1].endswith(".") and row[2] for row in rows("reason"))


def test_every_reason_is_used() -> None:
    sources = (ROOT / "operator/kubetune").rglob("*.py")
    text = "\n".join(path.read_text() for path in sources)
    used = set(re.findall(r"\bReason\.([A-Z_]+)", text))
    assert used == {reason.name for reason in Reason}
