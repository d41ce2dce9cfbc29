"""The probe of a CML workspace: would a run find project, runtime and accelerators?"""

from __future__ import annotations

import logging
from dataclasses import replace

from kubetune.api.conditions import Reason
from kubetune.api.kinds.status_types import CmlAcceleratorDict, CmlQuotaDict
from kubetune.api.training.settings import Resources
from kubetune.clients.cml import CmlError, UnknownOutcomeError
from kubetune.clients.cml_models import (
    AcceleratorNodeLabel,
    CreateProjectRequest,
    variables,
)
from kubetune.clients.cml_operations import CREATE_PROJECT
from kubetune.targets.cml.offers import (
    OfferError,
    check_addons,
    choose_accelerator,
    choose_runtime,
    whole,
)
from kubetune.targets.cml.probed import WorkspaceProbe, told
from kubetune.targets.cml.workspace import Workspace, refused
from kubetune.targets.errors import BackendError
from kubetune.targets.sentences import short
from kubetune.targets.values import TargetProbe

logger = logging.getLogger(__name__)

_CREATED = ("", "success", "succeeded", "created", "unknown")
_CREATION_FAILED = ("failure", "failed", "error")


async def probe(workspace: Workspace) -> TargetProbe:
    """What the workspace offers to runs of its namespace."""
    target = workspace.target
    try:
        found = await _probe(workspace)
    except (CmlError, BackendError) as error:
        problem = error if isinstance(error, BackendError) else refused(error, target.url)
        found = WorkspaceProbe(Reason(problem.reason), str(problem))
    return told(target, found)


async def _probe(workspace: Workspace) -> WorkspaceProbe:
    target = workspace.target
    try:
        await workspace.check()
    except BackendError as error:
        if error.reason != Reason.PROJECT_MISSING or target.create_project is None:
            raise
        return await _create(workspace)
    project = await workspace.project()
    state = project.creation_status.lower()
    if state in _CREATION_FAILED:
        message = (
            f"CML could not create project {target.project}: delete it there and check"
            " spec.cml.createProject"
        )
        return WorkspaceProbe(Reason.PROJECT_MISSING, message)
    if state not in _CREATED:
        message = short(f"CML is creating project {target.project} ({state})")
        return WorkspaceProbe(Reason.PROJECT_CREATING, message)
    labels = await workspace.accelerators() or []
    found = WorkspaceProbe(
        project_id=project.id,
        accelerators=tuple(_accelerator(label) for label in labels),
        quota=await _quota(workspace),
        # Their names; the values are nobody's business.
        variables=tuple(variables(project.environment)),
    )
    try:
        runtime = choose_runtime(await workspace.runtimes(), target.runtime)
        if target.runtime_addons:
            check_addons(await workspace.addons(), target.runtime_addons)
    except OfferError as error:
        message = short(f"{target.url}: {error}")
        return replace(found, reason=Reason.RUNTIME_MISSING, message=message)
    try:
        choose_accelerator(labels, target.resources or Resources())
    except OfferError as error:
        message = short(f"{target.url}: spec.cml.{error}")
        return replace(found, reason=Reason.TARGET_REFUSED, message=message)
    return replace(found, runtime=runtime)


async def _create(workspace: Workspace) -> WorkspaceProbe:
    """Have the project made from git; the next probes see it come into being."""
    target = workspace.target
    source = target.create_project
    assert source is not None
    body = CreateProjectRequest(
        name=target.project,
        template="git",
        git_url=source.url,
        git_ref=source.ref,
        visibility="private",
        default_project_engine_type="ml_runtime",
    )
    try:
        await (await workspace.client()).write(CREATE_PROJECT, body=body)
    except UnknownOutcomeError as error:
        logger.info("project %s: %s", target.project, error)
    message = f"CML is creating project {target.project} from {source.url}"
    return WorkspaceProbe(Reason.PROJECT_CREATING, message)


async def _quota(workspace: Workspace) -> CmlQuotaDict:
    """Quota of the key's user, as far as the workspace tells; it is for people only."""
    try:
        row = await workspace.quota()
    except CmlError as error:
        logger.info("quota of %s: %s", workspace.target.url, error)
        return {}
    if row is None:
        return {}

    used, allowed = row.quota_usage, row.quota_configured
    shown: CmlQuotaDict = {}
    if allowed.cpu:
        shown["cpu"] = f"{used.cpu or 0}/{allowed.cpu}"
    if allowed.memory:
        shown["memory"] = f"{used.memory or 0}/{allowed.memory}"
    if allowed.nvidia_gpu:
        shown["gpu"] = f"{used.nvidia_gpu or 0}/{allowed.nvidia_gpu}"
    return shown


def _accelerator(label: AcceleratorNodeLabel) -> CmlAcceleratorDict:
    value: CmlAcceleratorDict = {"key": label.label_key, "value": label.label_value}
    if (most := whole(label.max_gpu_per_workload)) is not None:
        value["maxPerWorkload"] = most
    total, used = whole(label.max_gpu_count), whole(label.current_gpu_count)
    if total is not None and used is not None:
        value["free"] = max(0, total - used)
    return value
