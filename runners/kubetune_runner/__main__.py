"""Entry of every run: ``python -m kubetune_runner`` reads the plan, runs it, leaves an outcome.

``python -m kubetune_runner doctor`` runs nothing and tells what is missing here.

The outcome goes to the termination log; the exit code tells whether another attempt makes sense.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file
from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune.api.run.plan import (
    ENV_BATCH,
    ENV_PLAN,
    ENV_ROOT,
    PLAN_FILE,
    PLAN_VERSION,
    BatchPlan,
    InspectionPlan,
    RunPlan,
    in_container,
)
from pydantic import ValidationError

from kubetune_runner import outcomes, startup_gc
from kubetune_runner.doctor import caches
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import log_upload
from kubetune_runner.mlflow.log_upload import AnyPlan
from kubetune_runner.processes import is_first_process, is_process, launches
from kubetune_runner.run_log import RunLog
from kubetune_runner.signals import Interrupted, StopSignal

ENV_TERMINATION_LOG = "KUBETUNE_TERMINATION_LOG"
"""File for the outcome, instead of /dev/termination-log."""
TERMINATION_LOG = "/dev/termination-log"

_KINDS = {"train": RunPlan, "evaluate": EvaluationRunPlan}
"""Every other kind is an inspection."""

log = logging.getLogger(__name__)


def main() -> int:
    """Run the plan; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kubetune_runner",
        description="Run what a plan says, and leave an outcome: pods and jobs start this.",
        epilog=f"The plan is read from ${ENV_PLAN}, else from {PLAN_FILE}; the outcome goes to"
        f" ${ENV_TERMINATION_LOG}, else to {TERMINATION_LOG}.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["doctor"],
        help="doctor: run nothing, and tell what runs would miss here (exit code 1 if something)",
    )
    if parser.parse_args().command == "doctor":
        from kubetune_runner.doctor.report import report

        return report()
    return exit_code(execute(StopSignal()))


def execute(
    stop: StopSignal,
    prepare: Callable[[], object] = lambda: None,
    explain: Callable[[Outcome], Outcome] = lambda outcome: outcome,
) -> Outcome:
    """Call ``prepare``, run the plan and leave the outcome, whatever happens.

    ``explain`` may know more of how it ended. SIGTERM is ignored from then on, so that it can't
    change how the process ends.
    """
    kept = RunLog()
    with kept.capture():
        outcome, plan = _execute(stop, prepare, explain, kept)
        if plan is not None and not is_process():
            log_upload.store(plan, outcome, kept.text())
    return outcome


def _execute(
    stop: StopSignal,
    prepare: Callable[[], object],
    explain: Callable[[Outcome], Outcome],
    kept: RunLog,
) -> tuple[Outcome, AnyPlan | None]:
    # A notebook's kernel may have set up the root logger for warnings only. Of processes that train
    # together one speaks for all.
    follows = is_process() and not is_first_process()
    logging.getLogger("kubetune_runner").setLevel(logging.WARNING if follows else logging.INFO)
    if follows:
        logging.getLogger().setLevel(logging.WARNING)
    # Request lines of the HTTP clients say nothing about the run.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop.install()
    plans: list[AnyPlan] = []
    outcome = _outcome(stop, prepare, plans, kept)
    stop.release()
    outcome = explain(outcome)
    level = logging.ERROR if follows and outcome.status == "failed" else logging.INFO
    log.log(level, "%s: %s %s", outcome.status, outcome.reason, outcome.message)
    if outcome.status == "failed" and not outcome.log:
        # Only then: the code's own lines may hold rows.
        outcome = outcome.model_copy(update={"log": kept.last()})
    leave(outcome)
    return outcome, next(iter(plans), None)


def exit_code(outcome: Outcome) -> int:
    """The exit code that goes with an outcome."""
    if outcome.exit_code is not None:
        return outcome.exit_code
    if outcome.status == "succeeded":
        return ExitCode.SUCCEEDED
    if outcome.status == "interrupted":
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if outcome.retryable else ExitCode.REFUSED


def read_plan(path: Path) -> RunPlan | EvaluationRunPlan | InspectionPlan:
    """Read and check the plan.

    Raises RunError: PlanMissing, PlanInvalid, PlanVersion.
    """
    try:
        document: Any = json_file(path)
    except OSError as error:
        raise RunError("PlanMissing", f"plan {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError("PlanInvalid", f"plan {path} is not JSON: {error}") from error
    version = document.get("version") if isinstance(document, dict) else None
    if version != PLAN_VERSION:
        raise RunError(
            "PlanVersion",
            f"plan has version {version}, this runner reads version {PLAN_VERSION}: use a runner"
            " image of the operator's version",
        )
    kind = _KINDS.get(str(document.get("kind", "train")), InspectionPlan)
    try:
        plan = kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError("PlanInvalid", f"plan: {field}: {first['msg']}") from error
    if not isinstance(plan, RunPlan):
        return plan
    try:
        return plan.model_copy(update={"batch": BatchPlan.of_environment()})
    except ValueError as error:
        given = os.environ.get(ENV_BATCH)
        raise RunError("PlanInvalid", f"{ENV_BATCH} is {given!r}, not like 4x2") from error


def _outcome(
    stop: StopSignal, prepare: Callable[[], object], plans: list[AnyPlan], kept: RunLog
) -> Outcome:
    """Run the plan, which is put into ``plans``; whatever happens becomes an outcome."""
    try:
        prepare()
        caches.settle()
        kept.learn_secrets()
        named = os.environ.get(ENV_PLAN)
        plan = read_plan(Path(named) if named else in_container(PLAN_FILE))
        plans.append(plan)
        if isinstance(plan, RunPlan):
            if launches(plan):
                from kubetune_runner.processes import launcher

                return launcher.run(plan, stop)
            startup_gc.begin(plan)
            from kubetune_runner.training.run import run as train

            return train(plan, stop)
        if isinstance(plan, EvaluationRunPlan):
            startup_gc.begin()
            from kubetune_runner.evaluate import run as evaluate

            return evaluate(plan)
        from kubetune_runner.inspection import run as inspect

        return inspect(plan)
    except (RunError, Interrupted, KeyboardInterrupt) as error:
        return outcomes.from_error(error)
    # A library that calls sys.exit doesn't speak for the run.
    except (Exception, SystemExit) as error:
        log.exception("unexpected error")
        return outcomes.from_error(error)


def leave(outcome: Outcome) -> None:
    """Write the outcome where the backend finds it."""
    named = os.environ.get(ENV_TERMINATION_LOG)
    path = Path(named) if named else in_container(TERMINATION_LOG)
    try:
        if os.environ.get(ENV_ROOT):
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outcomes.message_of(outcome), encoding="utf-8")
    except OSError as error:
        log.warning("outcome not written to %s: %s", path, error)


if __name__ == "__main__":
    sys.exit(main())
