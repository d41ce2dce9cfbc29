"""What is true of runs in a CML workspace."""

from __future__ import annotations

from kubetune.api.kinds.compute_target.recorded import RecordedWorkspace
from kubetune.targets.facts import TargetFacts

CML = TargetFacts(
    name="CML",
    runs_outlive_owner=True,
    needs_access=True,
    carries_secrets=False,
    durable_disk=True,
    has_project=True,
    adjusts_limits=False,
    own_clock=True,
    outcome_may_be_lost=True,
    own_code="Refused",
    recorded=RecordedWorkspace,
    claims_refused="can't be mounted in CML: put the files into the project and use"
    " source.project, or take them from a hub or registry",
)
