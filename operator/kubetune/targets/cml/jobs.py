"""Finds, stops and removes what kubetune has made in a workspace: one job, one run of an attempt.

When there are several jobs of one run key, the one with runs wins, then the oldest; the others
are removed.
"""

from __future__ import annotations

import contextlib
import logging

from kubetune.api.conditions import Reason
from kubetune.api.run import plan
from kubetune.clients.cml import (
    CmlError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_models import Job, JobRun, variables
from kubetune.clients.cml_operations import DELETE_JOB, GET_JOB, GET_JOB_RUN, STOP_JOB_RUN
from kubetune.targets.cml.manifests import is_ours, job_name
from kubetune.targets.cml.states import is_active, is_live, numbered
from kubetune.targets.cml.workspace import Workspace
from kubetune.targets.errors import BackendError
from kubetune.targets.values import Owner

logger = logging.getLogger(__name__)


async def find_job(
    workspace: Workspace, owner: Owner, run_key: str, since: float, known: str | None = None
) -> Job | None:
    """The job of a run key, None when no listing begun since then shows one.

    ``known`` is the id of one that was seen, which counts as long as it exists. Raises
    BackendError when the name belongs to a job without the mark: it isn't ours to touch.
    """
    ours, taken = await named(workspace, owner, run_key, since, known)
    if ours:
        return await settle(workspace, ours)
    if taken:
        raise BackendError(
            Reason.NAME_TAKEN,
            f"job {job_name(owner, run_key)} exists in CML and was not made by kubetune: rename"
            " or delete it",
            retryable=True,
        )
    return None


async def settle(workspace: Workspace, candidates: list[Job]) -> Job:
    """The one that stays of the jobs of one run key; the others are stopped and removed."""
    if len(candidates) == 1:
        return candidates[0]
    runs = {job.id: await workspace.runs(job.id) for job in candidates}
    winner, *others = sorted(
        candidates, key=lambda job: (not runs[job.id], str(job.created_at), job.id)
    )
    for job in others:
        logger.warning("removing job %s, a duplicate of %s", job.id, winner.id)
        await remove_job(workspace, job.id, runs[job.id])
    return winner


async def remove_job(workspace: Workspace, job_id: str, runs: list[JobRun]) -> None:
    """Stop what runs and delete the job. Repeatable."""
    for run in runs:
        if is_active(run):
            await stop_run(workspace, job_id, run.id)
    try:
        await workspace.write(DELETE_JOB, job_id)
    except NotFoundError:
        return
    finally:
        workspace.relist()


async def stop_run(workspace: Workspace, job_id: str, run_id: str) -> None:
    """Stop one run; an ended one may stay as it is."""
    ours = run_id in workspace.stopped
    # Before the answer, which a look may overtake.
    workspace.stopped.add(run_id)
    try:
        await workspace.write(STOP_JOB_RUN, job_id, run_id)
    except CmlError as error:
        if not (ours or isinstance(error, UnknownOutcomeError)):
            # It still runs, or ended without us.
            workspace.stopped.discard(run_id)
        match error:
            case NotFoundError():
                return
            case ConflictError() | InvalidError():
                if is_live(await workspace.read(GET_JOB_RUN, job_id, run_id)):
                    raise
            case _:
                raise


async def settle_runs(workspace: Workspace, job_id: str, attempt: int) -> None:
    """Have an attempt have one run: a younger one that is active beside it stops."""
    runs = await workspace.runs(job_id)
    first = numbered(runs).get(attempt)
    for run in runs:
        told = variables(run.environment).get(plan.ENV_ATTEMPT, "")
        if first and told == str(attempt) and run.id != first.id and is_active(run):
            logger.warning("stopping run %s, a duplicate of %s", run.id, first.id)
            await stop_run(workspace, job_id, run.id)


async def named(
    workspace: Workspace, owner: Owner, run_key: str, since: float, known: str | None
) -> tuple[list[Job], bool]:
    """Jobs that carry name and mark of a run key, and whether one has the name alone."""
    named = await workspace.jobs(job_name(owner, run_key), since)
    detailed = [job if job.environment else await workspace.read(GET_JOB, job.id) for job in named]
    if known and all(job.id != known for job in named):
        # Deleted, or the listing is behind.
        with contextlib.suppress(NotFoundError):
            detailed.append(await workspace.read(GET_JOB, known))
    ours = [job for job in detailed if is_ours(job, owner, run_key)]
    return ours, len(ours) < len(detailed)
