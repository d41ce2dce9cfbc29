"""Looks at Secrets, claims and service accounts by name: are they there, and opened to kubetune?

They aren't watched, so that the operator needs no right to list them. What was seen is remembered
for seconds, and shared: thousands of objects that name one claim cost what one costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.clients.kubernetes import ForbiddenError, KubernetesClient, NotFoundError
from kubetune.decide.consent import (
    Lacking,
    Seen,
    Wanted,
    is_listed,
    is_open,
    key_missing,
    missing,
    not_open,
    unreadable,
)

KEPT_SECONDS = 5.0
"""What can be used counts so long as seen: an owner's change of mind acts this much later."""
ASKED_AGAIN_SECONDS = 1.0
"""What can't be used is looked at no more often than this, whoever waits for it."""
MOST_KEPT = 4096


class Consents:
    """What may be used, as far as it was looked at."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._seen: dict[tuple[str, str, str], tuple[float, Seen | None]] = {}
        """When something was looked at, and what was seen; None where nothing is."""

    async def lacking(
        self, namespace: str, wanted: Iterable[Wanted], target: ComputeTargetSpec | None
    ) -> Lacking | None:
        """The first of these that is missing, or not opened for its use; None when all are fine.

        Raises ApiError and its like when the API server doesn't say.
        """
        for each in sorted(set(wanted)):
            if is_listed(each, target) and not each.key:
                # Kubernetes says itself when it isn't there.
                continue
            try:
                problem = await self._problem(namespace, each, target)
            except ForbiddenError as error:
                problem = unreadable(each, namespace, str(error))
            if problem:
                return problem
        return None

    async def _problem(
        self, namespace: str, wanted: Wanted, target: ComputeTargetSpec | None
    ) -> Lacking | None:
        seen = await self._look(namespace, wanted, target)
        if seen is None:
            return missing(wanted, namespace)
        if not is_open(wanted, seen, target):
            return not_open(wanted, namespace, seen)
        if wanted.key and wanted.key not in (seen.keys or ()):
            return key_missing(wanted, namespace)
        return None

    async def _look(
        self, namespace: str, wanted: Wanted, target: ComputeTargetSpec | None
    ) -> Seen | None:
        """What is there; None where nothing is. Of what isn't opened only metadata are read."""
        place = (wanted.kind, namespace, wanted.name)
        clock = asyncio.get_running_loop().time
        at, seen = self._seen.get(place, (-KEPT_SECONDS, None))
        fine = bool(
            seen
            and is_open(wanted, seen, target)
            and (not wanted.key or seen.keys is None or wanted.key in seen.keys)
        )
        if clock() - at >= (KEPT_SECONDS if fine else ASKED_AGAIN_SECONDS):
            seen = await self._read(place, whole=False)
            self._keep(place, clock(), seen)
        if wanted.key and seen and seen.keys is None and is_open(wanted, seen, target):
            seen = await self._read(place, whole=True)
            self._keep(place, clock(), seen)
        return seen

    async def _read(self, place: tuple[str, str, str], *, whole: bool) -> Seen | None:
        try:
            if not whole:
                return Seen(_labels(await self._client.metadata(*place)))
            secret = await self._client.get(*place)
        except NotFoundError:
            return None
        return Seen(_labels(secret), frozenset(secret.get("data") or {}))

    def _keep(self, place: tuple[str, str, str], at: float, seen: Seen | None) -> None:
        if len(self._seen) >= MOST_KEPT:
            self._seen.clear()
        self._seen[place] = at, seen


def _labels(body: JsonObject) -> Mapping[str, str]:
    return body["metadata"].get("labels") or {}
