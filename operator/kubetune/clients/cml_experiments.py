"""Experiments of a CML project by name."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubetune.clients.cml_errors import ConflictError, UnknownOutcomeError
from kubetune.clients.cml_models import CreateExperimentRequest, Experiment
from kubetune.clients.cml_operations import CREATE_EXPERIMENT, LIST_EXPERIMENTS

if TYPE_CHECKING:
    from kubetune.clients.cml import CmlClient


async def experiment_ids(
    client: CmlClient, project_id: str, names: Collection[str]
) -> dict[str, list[str]]:
    """The ids of the experiments that have exactly one of the names, the oldest first.

    A name has several when two processes made it at the same moment. Names without an
    experiment are left out.
    """
    experiments = await client.pages(LIST_EXPERIMENTS, project_id)
    found: dict[str, list[str]] = {}
    for experiment in sorted(experiments, key=_age):
        if experiment.name in names and experiment.lifecycle_stage != "deleted":
            found.setdefault(experiment.name, []).append(experiment.id)
    return found


async def ensure_experiment(client: CmlClient, project_id: str, name: str) -> str:
    """The id of the experiment with this name; it is made when there is none.

    To be called before the first run: runs that start at once would each try to make it.
    Raises CmlError; after an UnknownOutcomeError the next call looks first.
    """
    if found := await experiment_ids(client, project_id, (name,)):
        return found[name][0]
    made = ""
    try:
        body = CreateExperimentRequest(project_id=project_id, name=name)
        made = (await client.write(CREATE_EXPERIMENT, project_id, body=body)).id
    except (ConflictError, UnknownOutcomeError):
        # Somebody else was faster, or it may be there all the same.
        found = await experiment_ids(client, project_id, (name,))
        if not found:
            raise
    else:
        found = await experiment_ids(client, project_id, (name,))
    return found[name][0] if found else made


def _age(experiment: Experiment) -> tuple[datetime, str]:
    return experiment.created_at or datetime.max.replace(tzinfo=UTC), experiment.id
