"""What is true of runs that sleep."""

from __future__ import annotations

from kubetune.api.kinds.compute_target.sleeper import RecordedSleeper
from kubetune.targets.facts import TargetFacts

SLEEPER = TargetFacts(
    name="a folder",
    runs_outlive_owner=True,
    needs_access=False,
    carries_secrets=False,
    durable_disk=True,
    has_project=False,
    adjusts_limits=False,
    own_clock=False,
    outcome_may_be_lost=False,
    recorded=RecordedSleeper,
    claims_refused="can't be mounted by a sleeper: take the files from a hub",
    project_refused="source.project names files of a project, which a sleeper doesn't have: take"
    " them from a hub",
)
