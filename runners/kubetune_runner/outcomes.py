"""How an error becomes the outcome of a run, and the outcome a text."""

from __future__ import annotations

import logging
import os

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import ENV_PLAN_DATA

from kubetune_runner.errors import RunError
from kubetune_runner.signals import Interrupted
from kubetune_runner.training.out_of_memory import REASON, SINCE_START, out_of_memory

log = logging.getLogger(__name__)


def on_cml() -> bool:
    """Whether this run was started by ``kubetune_runner.cml.project``."""
    return ENV_PLAN_DATA in os.environ


def from_error(error: BaseException) -> Outcome:
    """The outcome of a run that an exception ended."""
    if isinstance(error, RunError) and error.reason == REASON:
        # It says itself what helps.
        return Outcome(status="failed", reason=REASON, message=error.message, retryable=True)
    if (what := out_of_memory(error)) is not None:
        # Somebody else may have had the rest of it; the operator tries once more.
        return Outcome(status="failed", reason=REASON, message=what, retryable=True)
    if isinstance(error, RunError):
        return Outcome(
            status="failed",
            reason=error.reason,
            message=error.message,
            retryable=error.retryable,
            summary=error.summary,
        )
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        signal = "SIGTERM" if isinstance(error, Interrupted) else "SIGINT"
        return Outcome(
            status="interrupted",
            reason="Interrupted",
            message=f"stopped by {signal}",
            retryable=True,
        )
    if isinstance(error, ImportError):
        return Outcome(
            status="failed",
            reason="RunnerMissing",
            message=f"{_first_line(error)}; {packages_hint()}",
        )
    if SINCE_START.some():
        # Such as a process that loads data for it.
        return Outcome(
            status="failed",
            reason=REASON,
            message="The run's memory is too small: the system has killed a process of it, and then"
            f" {type(error).__name__}: {_first_line(error)}",
            retryable=True,
        )
    return Outcome(
        status="failed",
        reason="UnexpectedError",
        message=f"{type(error).__name__}: {_first_line(error)}; the run's log has the traceback",
        retryable=True,
    )


def packages_hint() -> str:
    """What to do about a package that is missing or too old."""
    if on_cml():
        return (
            "use a runtime image with the runner's packages, or run pip install"
            " 'kubetune[runner]' in a session of the project"
        )
    return "use a runner image of the operator's version"


def message_of(outcome: Outcome) -> str:
    """The outcome as text that always fits; log and summary are dropped when it is too long."""
    listed = {key: outcome.summary[key] for key in outcome.summary if key != "files"}
    if isinstance(merged := listed.get("merged"), dict):
        listed["merged"] = {key: merged[key] for key in merged if key != "files"}
    for part, without in (
        ("log", {"log": ""}),
        ("log and list of files", {"log": "", "summary": listed}),
        ("log and summary", {"log": "", "summary": {}}),
    ):
        try:
            return outcome.to_message()
        except ValueError:
            log.warning("%s left out of the outcome: a termination message is shorter", part)
            outcome = outcome.model_copy(update=without)
    return outcome.to_message()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]
