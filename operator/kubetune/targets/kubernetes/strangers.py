"""Objects that say to be a run's and aren't: told once, in a warning Event of whom they name.

Nothing is done to them: they may be somebody's mistake, such as a copied manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

import aiohttp

from kubetune import names
from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError, ConflictError, KubernetesClient
from kubetune.keys import Keyring
from kubetune.targets.kubernetes.job_cache import JobCache
from kubetune.targets.kubernetes.ownership import (
    has_mark,
    is_owned,
    is_run_of,
    pods_of,
    was_made_for,
    why_foreign,
)
from kubetune.targets.kubernetes.strays import controlled_by
from kubetune.targets.sentences import short
from kubetune.targets.values import Owner

logger = logging.getLogger(__name__)

REASON = "NotOurs"
MAX_KNOWN = 10_000
MAX_TOLD_AT_ONCE = 10


class Strangers:
    """Who was told of which; the memory is bounded, and Kubernetes keeps what was told."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str], None] = {}
        """Uids of owner and stranger, the latest last."""

    def is_known(self, owner: Owner, item: JsonObject) -> bool:
        """Whether an object was found to be a stranger to an owner before."""
        return (owner.uid, item["metadata"]["uid"]) in self._known

    async def tell(self, owner: Owner, found: Iterable[tuple[JsonObject, str]]) -> None:
        """Write an Event about each that is new; ``found`` has why each isn't the owner's."""
        news = [(item, why) for item, why in found if not self.is_known(owner, item)]
        # The others have their turn when the owner is looked at next.
        path = f"/api/v1/namespaces/{owner.namespace}/events"
        for item, why in news[:MAX_TOLD_AT_ONCE]:
            self._known[(owner.uid, item["metadata"]["uid"])] = None
            while len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
            try:
                await self._client.request("POST", path, body=_event(owner, item, why))
            except ConflictError:
                # An operator before this one has told.
                continue
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning(
                    "no Event about a stranger to %s %s: %s", owner.kind, owner.name, error
                )


def strangers(
    cache: JobCache, owner: Owner, run_key: str, jobs: Collection[JsonObject], keys: Keyring
) -> list[tuple[JsonObject, str]]:
    """Jobs and pods that say to be runs of an owner and aren't, with why; ``jobs`` are those."""
    ours = {job["metadata"]["uid"] for job in jobs}
    found = [
        (job, why_foreign(job, owner, run_key, keys))
        for job in (*cache.jobs(owner.uid), *cache.loose_jobs(run_key))
        if job["metadata"]["uid"] not in ours and not _is_another_run(job, owner, run_key, keys)
    ]
    for job in jobs:
        claimed = cache.pods(job["metadata"]["uid"])
        own = {pod["metadata"]["uid"] for pod in pods_of(job, claimed)}
        why = f"it isn't a pod of Job {job['metadata']['name']} in its namespace"
        found += [(pod, why) for pod in claimed if pod["metadata"]["uid"] not in own]
    # Pods of what was told of need not be told of, too.
    known = ours | {job["metadata"]["uid"] for job, _ in found}
    for pod in cache.live_pods(run_key):
        controller = controlled_by(pod)
        told = controller is not None and controller[1] in known
        if not told and not is_run_of(pod, owner, keys):
            found.append((pod, "it wasn't made by a Job of the operator's"))
    return found


def _is_another_run(job: JsonObject, owner: Owner, run_key: str, keys: Keyring) -> bool:
    """Whether a Job was made here, and was cut loose or is of another run key of the owner."""
    if was_made_for(job, owner, run_key, keys):
        return True
    other = names.run_key_in(job["metadata"]["name"]) != run_key
    return other and is_owned(job, owner) and has_mark(job, keys)


def _event(owner: Owner, item: JsonObject, why: str) -> JsonObject:
    metadata = item["metadata"]
    what = f"{item['kind']} {metadata['namespace']}/{metadata['name']}"
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            # The same for the same stranger, so that it is told once.
            "name": names.child_name(owner.name, names.digest(owner.uid, metadata["uid"])[:16]),
            "namespace": owner.namespace,
        },
        "involvedObject": {
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "namespace": owner.namespace,
            "name": owner.name,
            "uid": owner.uid,
        },
        "type": "Warning",
        "reason": REASON,
        "message": short(f"{what} says to be a run of this {owner.kind}, and is ignored: {why}"),
        "source": {"component": "kubetune"},
        "reportingComponent": "kubetune",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
