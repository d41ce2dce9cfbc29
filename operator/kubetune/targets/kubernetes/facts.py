"""What is true of runs in this cluster."""

from __future__ import annotations

from kubetune.targets.facts import TargetFacts

KUBERNETES = TargetFacts(
    name="the cluster",
    runs_outlive_owner=False,
    needs_access=False,
    carries_secrets=True,
    durable_disk=False,
    has_project=False,
    adjusts_limits=True,
    own_clock=False,
    outcome_may_be_lost=False,
    project_refused="source.project names files of a CML project, and the compute target is not"
    " one: use source.volume, or a ComputeTarget with spec.cml",
)
