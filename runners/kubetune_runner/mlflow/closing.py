"""The last words of a run to MLflow."""

from __future__ import annotations

import logging

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import outcome_tag

from kubetune_runner import outcomes
from kubetune_runner.mlflow.tracking import Tracker

CLOSE_SECONDS = 15.0
"""For the last reports; a signal leaves less, since the grace period runs."""
INTERRUPTED_CLOSE_SECONDS = 5.0
RUN_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""MLflow's words."""

log = logging.getLogger(__name__)


def close(tracker: Tracker, outcome: Outcome) -> None:
    """Report how the run ended."""
    if outcomes.on_cml():
        # The operator may not get at the project's files.
        tracker.tags({outcome_tag(tracker.attempt): outcomes.message_of(outcome)})
    tracker.phase(outcome.status)
    seconds = INTERRUPTED_CLOSE_SECONDS if outcome.status == "interrupted" else CLOSE_SECONDS
    if not tracker.close(RUN_STATUS[outcome.status], seconds):
        log.warning("MLflow didn't get the run's last reports")
