"""The life of an inspection, the same for Datasets, Models and PromptTemplates.

An inspection is known by its key, a digest of what is read and how. The status keeps the
key, so a finished inspection is repeated only when the spec changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kubetune.api.conditions import InspectionResult, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import InspectionStateDict
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import InspectionPlan
from kubetune.api.training.settings import Resources
from kubetune.decide.decision import (
    MAX_MESSAGE,
    Action,
    DeleteRuns,
    StartRun,
    StopStrays,
    parse_time,
    rfc3339,
    shorten,
)
from kubetune.decide.retries import (
    INSPECTION_FIRST_SECONDS,
    Retry,
    after_inspection,
    retry_of,
)
from kubetune.decide.sources import Mounts
from kubetune.keys import Keyring
from kubetune.names import derived_run_key, digest
from kubetune.targets.values import FINISHED, Owner, RunRequest, RunState

INSPECTION_RESOURCES = Resources(cpu="500m", memory="1Gi", gpu=0)
KEPT_SECONDS = 3600
"""A failed run and its log stay so long, or until the next try."""
DELETION_SECONDS = 60
"""What is deleted holds the next try up no longer than this."""
KEY_LENGTH = 16
# Part of the plan that has the name of the inspected object itself.
_SUBJECTS = {"inspectDataset": "dataset", "inspectModel": "model"}


@dataclass(frozen=True)
class Waiting:
    """The inspection continues by itself."""

    reason: Reason | str
    message: str


@dataclass(frozen=True)
class Found:
    """The inspection succeeded: the summary of its outcome, or what the status has of it."""

    summary: Any
    """A DatasetInspection, ModelInspection or PromptSample as JSON."""


@dataclass(frozen=True)
class Refused:
    """The source is at fault; only a change of the spec helps."""

    reason: str
    message: str
    summary: Any


@dataclass(frozen=True)
class Step:
    """Where the inspection stands and what comes next; ``state`` goes to status.inspection."""

    result: Waiting | Found | Refused
    state: InspectionStateDict
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None


def inspection_key(plan: InspectionPlan, mounts: Mounts, target: str = "") -> str:
    """A digest of what is inspected and with whose token, whoever asks for it.

    ``target`` is the label of the target, since another's project has other files. ``plan`` has
    no tracking server, unless it is where the source is read from.
    """
    content = plan.to_json()
    del content["run"]
    if plan.kind in _SUBJECTS:
        del content[_SUBJECTS[plan.kind]]["name"]
    others: list[Any] = [mounts.dataset_claim, mounts.dataset_config_map, mounts.inline_rows]
    others += [mounts.model_claim, mounts.base_model_claim]
    if mounts.project:
        others.append(f"project of {target}")
    others += [{name: token.to_json() for name, token in mounts.tokens.items()}]
    return digest(json.dumps([content, others], sort_keys=True))[:KEY_LENGTH]


def inspection_run_key(keys: Keyring, owner: Owner, key: str) -> str:
    """The run key of an inspection: its own for each object."""
    return derived_run_key(keys, owner.uid, key)


def request(
    owner: Owner, plan: InspectionPlan, mounts: Mounts, target: ComputeTargetSpec
) -> RunRequest:
    """The run that inspects; its key and attempt are filled in by ``step``."""
    return RunRequest(
        owner=owner,
        run_key="",
        attempt=1,
        purpose="inspect",
        plan=plan.to_json(),
        target=target,
        resources=INSPECTION_RESOURCES,
        **mounts.of_request(),
    )


def step(
    request: RunRequest,
    run_key: str,
    state: InspectionStateDict,
    runs: Sequence[RunState],
    now: datetime,
) -> Step:
    """What comes next. ``state`` is status.inspection of this key, ``runs`` are its runs."""
    attempts = state.get("attempts", 0)
    run = next((run for run in runs if run.attempt == attempts + 1), None)
    if strays := [run for run in runs if run.stray]:
        waiting = Waiting(Reason.STOPPING, strays[-1].message)
        return Step(waiting, state, (StopStrays(run_key),))
    if run is None:
        return _start(request, run_key, state, runs, now)
    if run.phase in FINISHED:
        return _finished(run, run_key, state, attempts, now)
    message = run.message or "the inspection is running"
    reason = run.reason if run.phase == "pending" and run.reason else Reason.INSPECTING
    again = (StartRun(_run_of(request, run_key, run.attempt)),) if run.lacks_plan else ()
    return Step(Waiting(reason, message), state, again, run.look_again_seconds)


def settled(state: InspectionStateDict, key: str) -> bool:
    """Whether the inspection of this key has ended for good."""
    return state.get("key") == key and state.get("result") is not None


def kept_seconds(state: InspectionStateDict, now: datetime) -> float:
    """How much longer the run of a settled inspection stays; one that found it goes at once."""
    ended = parse_time(state.get("time"))
    if state.get("result") != InspectionResult.REFUSED or ended is None:
        return 0.0
    return max(0.0, KEPT_SECONDS - (now - ended).total_seconds())


def _start(
    request: RunRequest,
    run_key: str,
    state: InspectionStateDict,
    runs: Sequence[RunState],
    now: datetime,
) -> Step:
    attempts = state.get("attempts", 0)
    ended = parse_time(state.get("time"))
    if attempts and ended:
        wait = after_inspection(attempts) - (now - ended).total_seconds()
        if wait > 0:
            message = state.get("message") or "the last inspection failed and is tried again"
            return Step(Waiting(Reason.INSPECTION_RETRYING, message), state, requeue_after=wait)
        if runs and wait > -DELETION_SECONDS:
            # The failed try was kept for its log until now.
            retrying = Waiting(Reason.INSPECTION_RETRYING, "the next try starts")
            return Step(retrying, state, (DeleteRuns(run_key),), float(INSPECTION_FIRST_SECONDS))
    started = _run_of(request, run_key, attempts + 1)
    waiting = Waiting(Reason.INSPECTING, "an inspection reads the source")
    return Step(waiting, state, (StartRun(started),))


def _run_of(request: RunRequest, run_key: str, attempt: int) -> RunRequest:
    plan = request.plan | {"run": request.plan["run"] | {"runKey": run_key}}
    return replace(request, run_key=run_key, attempt=attempt, plan=plan)


def _finished(
    run: RunState, run_key: str, state: InspectionStateDict, attempts: int, now: datetime
) -> Step:
    outcome = run.outcome
    if run.phase == "succeeded" and outcome and outcome.status == "succeeded":
        done = _ended(run, state, attempts, now)
        done["result"] = InspectionResult.FOUND
        return Step(Found(outcome.summary), done, (DeleteRuns(run_key),))
    failed = _ended(run, state, attempts + 1, now)
    if run.last_lines:
        failed["log"] = run.last_lines
    is_final = outcome is not None and retry_of(outcome.reason, outcome) == Retry.NEVER
    if outcome and outcome.status == "failed" and is_final:
        refused = Refused(outcome.reason, outcome.message, outcome.summary)
        failed |= {
            "result": InspectionResult.REFUSED,
            "reason": outcome.reason,
            "message": outcome.message,
        }
        return Step(refused, failed, requeue_after=float(KEPT_SECONDS))
    message = _failure_text(run, outcome)
    wait = float(after_inspection(attempts + 1))
    way_on = f"; it is tried again in {wait:.0f} s"
    retry = shorten(message, MAX_MESSAGE - len(way_on)) + way_on
    reason = outcome.reason if outcome else run.reason or Reason.INSPECTION_FAILED
    return Step(Waiting(reason, retry), failed | {"message": retry}, requeue_after=wait)


def _ended(
    run: RunState, state: InspectionStateDict, attempts: int, now: datetime
) -> InspectionStateDict:
    """What stays of a state once a run of it has ended; its place isn't needed any more."""
    ended: InspectionStateDict = {"attempts": attempts, "time": rfc3339(run.ended_at or now)}
    if "key" in state:
        ended["key"] = state["key"]
    return ended


def _failure_text(run: RunState, outcome: Outcome | None) -> str:
    if outcome and outcome.message:
        return outcome.message
    code = f" with exit code {run.exit_code}" if run.exit_code is not None else ""
    return run.message or f"the inspection ended{code} and left no result"
