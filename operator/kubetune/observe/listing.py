"""Knows when the watches have shown everything that existed at the start.

Until then a Job that isn't in the cache may just not have been seen, and must not count as
lost. kopf's own barrier, its indices, wakes every listed object for every other one: seconds of
CPU at a few thousand objects. Here names are listed once and looked up in the cache.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

import aiohttp

from kubetune.api.kinds import BY_KIND
from kubetune.clients.kubernetes import (
    ApiError,
    ForbiddenError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.observe.cache import ObjectCache
from kubetune.queue import Key

logger = logging.getLogger(__name__)

NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
LOOK_SECONDS = 0.05
LIST_AGAIN_SECONDS = 5.0
RETRY_SECONDS = 1.0
PAGE = 250


async def everything_listed(
    client: KubernetesClient,
    cache: ObjectCache,
    selectors: Mapping[str, str],
    namespaces: Sequence[str],
) -> None:
    """Return once the cache has all objects of these kinds.

    ``selectors`` are label selectors by kind, empty for all; without ``namespaces`` the whole
    cluster counts. While the API server is away this waits.
    """
    for kind, selector in selectors.items():
        scopes = namespaces if namespaces and _is_namespaced(kind) else (None,)
        for scope in scopes:
            while not await _is_listed(client, cache, kind, scope, selector):
                logger.info("not every %s is there yet; listing names anew", kind)


async def _is_listed(
    client: KubernetesClient, cache: ObjectCache, kind: str, namespace: str | None, selector: str
) -> bool:
    try:
        names = await _list(client, kind, namespace, selector)
    except (ApiError, aiohttp.ClientError, TimeoutError) as error:
        logger.warning("%s can't be listed: %s", kind, error)
        await asyncio.sleep(RETRY_SECONDS)
        return False
    return await _seen(cache, names)


async def _seen(cache: ObjectCache, keys: Iterable[Key]) -> bool:
    """Wait until all are in the cache; False when that takes long: some may be deleted by now."""
    missing = set(keys)
    try:
        async with asyncio.timeout(LIST_AGAIN_SECONDS):
            while missing := {key for key in missing if cache.get(*key) is None}:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        return False
    return True


async def _list(
    client: KubernetesClient, kind: str, namespace: str | None, selector: str
) -> list[Key]:
    # In pages: metadata has managedFields, and what is decoded at once stays with the process.
    query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
    found: list[Key] = []
    while True:
        try:
            answer = await client.request(
                "GET", client.path(kind, namespace), query=query, accept=NAMES_ONLY
            )
        except (NotFoundError, ForbiddenError):
            # No such kind here, or none of ours: the watch says so, and other kinds go on.
            return found
        for item in answer["items"] or ():
            metadata = item["metadata"]
            found.append(Key(kind, metadata.get("namespace", ""), metadata["name"]))
        query["continue"] = answer["metadata"].get("continue", "")
        if not query["continue"]:
            return found


def _is_namespaced(kind: str) -> bool:
    return kind not in BY_KIND or BY_KIND[kind].namespaced
