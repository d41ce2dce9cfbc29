"""A thin client of the Kubernetes API on aiohttp, which kopf brings along.

The official client costs 75 MB on disk and most of the operator's CPU budget in model
classes that we don't need: objects here are plain dicts, as they come from the watch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
import kopf
from pydantic_core import from_json, to_json

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.foreign import answered, error_fields, first_line, text_of
from kubetune.api.kinds.table import BY_KIND
from kubetune.clients.deep_objects import cut, nests_deeply
from kubetune.clients.permission import NotLeadingError, always

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 30
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
METADATA_ALONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or reason or f"HTTP {status}")
        self.status = status
        self.reason = reason


class NotFoundError(ApiError):
    """404: the object or its kind doesn't exist."""


class ConflictError(ApiError):
    """409: the object exists already, or changed in between."""


class InvalidError(ApiError):
    """400, 413 or 422: by the schema or by a policy."""


class ForbiddenError(ApiError):
    """403: by RBAC, admission or quota."""


class TooManyRequestsError(ApiError):
    """429: the API server, or an admission webhook, asks for patience."""


class WebhookAwayError(ApiError):
    """500: an admission webhook that must be asked doesn't answer."""


REFUSALS = (ForbiddenError, InvalidError, TooManyRequestsError, WebhookAwayError)
"""What somebody can mend in the cluster: rights, quotas, policies, webhooks."""


_ERRORS: dict[int, type[ApiError]] = {
    400: InvalidError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidError,
    422: InvalidError,
    429: TooManyRequestsError,
}

# Plural names of the kinds that the operator touches, by (apiVersion, kind).
CORE_KINDS: dict[str, tuple[str, str]] = {
    "Job": ("batch/v1", "jobs"),
    "Pod": ("v1", "pods"),
    "ConfigMap": ("v1", "configmaps"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Namespace": ("v1", "namespaces"),
    "Event": ("events.k8s.io/v1", "events"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
}


def resource_path(
    api_version: str, plural: str, namespace: str | None, name: str | None = None
) -> str:
    """The URL path of a collection or an object."""
    prefix = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    parts = [prefix]
    if namespace:
        parts.append(f"namespaces/{quote(namespace, safe='')}")
    parts.append(plural)
    if name:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


class KubernetesClient:
    """Requests to one API server with the credentials that kopf's log-in finds."""

    def __init__(
        self, connection: kopf.ConnectionInfo, may_write: Callable[[], bool] = always
    ) -> None:
        self._connection = connection
        self._may_write = may_write
        self._session: aiohttp.ClientSession | None = None
        self._login = asyncio.Lock()

    @staticmethod
    def connect(may_write: Callable[[], bool] = always) -> KubernetesClient:
        """A client from the service account in a pod, else from $KUBECONFIG.

        ``may_write`` is asked before each change. Raises kopf.LoginError when there is neither.
        """
        return KubernetesClient(find_connection(), may_write)

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> JsonObject:
        """One request; the answer as a dict.

        Raises ApiError (by status), aiohttp.ClientError or TimeoutError.
        """
        session = await self._open()
        url = self._connection.server.rstrip("/") + path
        if query:
            url += "?" + urlencode(query)
        headers = {"Accept": accept}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = to_json(body)
        for fresh_login in (False, True):
            # At the last moment: what came before may have taken long.
            if method != "GET" and not self._may_write():
                raise NotLeadingError
            async with session.request(method, url, data=data, headers=headers) as response:
                if response.status == 401 and not fresh_login:
                    # Service account tokens are rotated on disk.
                    session = await self._open(renew=True)
                    continue
                return await _read(response)
        raise AssertionError("unreachable")

    async def get(self, kind: str, namespace: str | None, name: str) -> JsonObject:
        """Read one object; raises NotFoundError."""
        return await self.request("GET", self.path(kind, namespace, name))

    async def metadata(self, kind: str, namespace: str | None, name: str) -> JsonObject:
        """Read the metadata of an object, and nothing else of it; raises NotFoundError."""
        path = self.path(kind, namespace, name)
        return await self.request("GET", path, accept=METADATA_ALONE)

    async def create(self, manifest: JsonObject) -> JsonObject:
        """Create an object; raises ConflictError when there is one of that name."""
        metadata = manifest["metadata"]
        return await self.request(
            "POST", self.path(manifest["kind"], metadata.get("namespace")), body=manifest
        )

    async def delete(
        self, kind: str, namespace: str | None, name: str, *, uid: str | None = None
    ) -> None:
        """Delete an object and, in the background, what it owns; gone already is fine."""
        options: JsonObject = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", self.path(kind, namespace, name), body=options)
        except (NotFoundError, ConflictError):
            # A conflict means another object of that name lives now: not ours to delete.
            return

    async def patch(
        self, kind: str, namespace: str | None, name: str, patch: Any, *, subresource: str = ""
    ) -> JsonObject:
        """Merge-patch (a dict) or JSON-patch (a list) an object; the answer is the new object."""
        path = self.path(kind, namespace, name)
        if subresource:
            path += f"/{subresource}"
        kind_of_patch = JSON_PATCH if isinstance(patch, list) else MERGE_PATCH
        return await self.request("PATCH", path, body=patch, content_type=kind_of_patch)

    @staticmethod
    def path(kind: str, namespace: str | None, name: str | None = None) -> str:
        """The URL path of a kind that the operator knows."""
        if kind in BY_KIND:
            return resource_path(API_VERSION, BY_KIND[kind].plural, namespace, name)
        api_version, plural = CORE_KINDS[kind]
        return resource_path(api_version, plural, namespace, name)

    async def _open(self, *, renew: bool = False) -> aiohttp.ClientSession:
        async with self._login:
            if renew and self._session:
                await self._session.close()
                self._session = None
                self._connection = find_connection()
            if self._session is None:
                self._session = open_session(self._connection)
            return self._session


class Answer(aiohttp.ClientResponse):
    """An answer read by pydantic's parser: less CPU than json's, and recurring texts shared."""

    async def json(self, **options: Any) -> Any:
        # Errors may come from a proxy in between and be no JSON at all: aiohttp tells them apart.
        if not self.ok:
            return await super().json(**options)
        data = await self.read()
        if nests_deeply(data):
            # In a thread: texts that look like it may be long.
            data = await asyncio.to_thread(cut, data)
        return from_json(data)


def open_session(
    connection: kopf.ConnectionInfo,
    answers: type[Answer] = Answer,
    middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
) -> aiohttp.ClientSession:
    """A session with these credentials, for full URLs; to be called in the event loop."""
    return aiohttp.ClientSession(
        headers={**connection.as_http_headers(), "User-Agent": "kubetune"},
        # No limit: each watch holds a connection, and the workers limit the rest.
        connector=aiohttp.TCPConnector(
            limit=0,
            ssl=connection.as_ssl_context() if connection.server.startswith("https") else False,
        ),
        proxy=connection.proxy_url,
        trust_env=connection.trust_env,
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS, connect=10),
        response_class=answers,
        middlewares=middlewares,
    )


def find_connection() -> kopf.ConnectionInfo:
    """Credentials: $KUBECONFIG when set, else the pod's service account, else ~/.kube/config."""
    options: Any = {"logger": logger, "settings": kopf.OperatorSettings()}
    if os.environ.get("KUBECONFIG"):
        found = kopf.login_with_kubeconfig(**options)
    else:
        found = kopf.login_with_service_account(**options) or kopf.login_with_kubeconfig(**options)
    if found is None:
        raise kopf.LoginError(
            "no Kubernetes credentials: set KUBECONFIG or run in a pod with a service account"
        )
    return found


async def _read(response: aiohttp.ClientResponse) -> JsonObject:
    if response.status < 400:
        return cast("JsonObject", await response.json(content_type=None))
    # What has no form of the API server's is of a proxy in between.
    fields = error_fields(await response.read())
    reason = first_line(text_of(fields.get("reason")), 64)
    message = first_line(text_of(fields.get("message")), 1024)
    message = message or answered(response.status, response.headers.get("Content-Type", ""))
    error = _ERRORS.get(response.status, ApiError)
    if response.status == 500 and "failed calling webhook" in message:
        error = WebhookAwayError
    raise error(response.status, reason, message)
