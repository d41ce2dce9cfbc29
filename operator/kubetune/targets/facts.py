"""What is true of every target of one type, for rules that differ between types.

Rules ask for a fact and never for the name of a type: a further type is a further row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kubetune.api.kinds.compute_target.block import RecordedBlock


@dataclass(frozen=True)
class TargetFacts:
    """The facts of one type of target."""

    name: str
    """In a sentence, as in: mounted in CML."""
    runs_outlive_owner: bool
    """Runs stay where they are when their owner is deleted: nobody else collects them, so that
    the operator deletes them before the owner goes."""
    needs_access: bool
    """Runs can't be reached without the target and the Secrets and certificates that it names,
    which are held while there are runs."""
    carries_secrets: bool
    """Runs get the Secrets of the cluster that their objects name; elsewhere tokens are already
    there."""
    durable_disk: bool
    """Checkpoints stay on the disk of the place between attempts, without a claim."""
    has_project: bool
    """Runs see the files of a project, and source.project and paths of scripts are in it."""
    adjusts_limits: bool
    """The time limit of a live run can be changed, so that the target keeps the deadline itself."""
    own_clock: bool
    """Times of runs are from a clock that may be another than the operator's."""
    outcome_may_be_lost: bool
    """The outcome of a run may not arrive; the tracked run has it in a tag."""
    own_code: Literal["Allowed", "Refused"] = "Allowed"
    """What a target does with code of users that doesn't say so itself."""
    recorded: type[RecordedBlock] | None = None
    """What is recorded of the target's block to find the runs again; None in the cluster."""
    claims_refused: str = ""
    """Why a PersistentVolumeClaim can't be mounted, and what to do; empty where it can."""
    project_refused: str = ""
    """Why source.project can't be read, and what to do; empty where it can."""

    @property
    def mounts_claims(self) -> bool:
        """Whether runs can mount PersistentVolumeClaims."""
        return not self.claims_refused
