"""Jobs as the API server has them, where what a watch shows isn't enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.targets.kubernetes.strays import controlled_by


async def jobs_there(client: KubernetesClient, pods: Iterable[JsonObject]) -> set[str]:
    """Uids of Jobs that control these pods and exist, though they aren't their owner's."""
    found: set[str] = set()
    named = {(pod["metadata"]["namespace"], controlled_by(pod)) for pod in pods}
    for namespace, controller in named:
        if controller is None:
            continue
        name, uid = controller
        with contextlib.suppress(NotFoundError):
            job = await client.get("Job", namespace, name)
            found |= {uid} & {job["metadata"]["uid"]}
    return found


async def with_labels(client: KubernetesClient, job: JsonObject) -> JsonObject:
    """A Job of ours with our labels, which somebody may have removed: by them it is watched."""
    # Those of the template, which can't be changed, are the same.
    ours, metadata = job["spec"]["template"]["metadata"], job["metadata"]
    fields = {key: ours.get(key) or {} for key in ("labels", "annotations")}
    if all(fields[key].items() <= (metadata.get(key) or {}).items() for key in fields):
        return job
    change = {"metadata": {"uid": metadata["uid"], **fields}}
    return await client.patch("Job", metadata["namespace"], metadata["name"], change)
