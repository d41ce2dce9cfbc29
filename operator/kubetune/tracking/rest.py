"""Requests to an MLflow server, as coroutines with a hard time limit.

The base of kubetune.tracking.mlflow. MLflow's own client blocks, retries for minutes and takes
seconds of CPU to import, so the operator speaks the REST API.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import aiohttp

from kubetune.api import JsonObject
from kubetune.queue.outside import CALLS_AT_ONCE, Place, SilentError
from kubetune.tracking.base import TrackingError

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

RETRY_PAUSE_SECONDS = 0.2
MAX_MESSAGE = 300
_UNAVAILABLE = frozenset({502, 503, 504})
_REFUSED = frozenset({400, 404, 405, 409, 410, 413, 422})
_PASSING = frozenset({"ABORTED", "RESOURCE_CONFLICT", "REQUEST_LIMIT_EXCEEDED"})
"""Codes of MLflow that come with such a status all the same."""
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


@dataclass(frozen=True)
class Credentials:
    """A user name and password, or a token; all empty for an open server."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @staticmethod
    def from_secret(data: Mapping[str, str]) -> Credentials:
        """Read ``data`` of a Kubernetes Secret (base64 values).

        Raises ValueError naming the keys when it has neither the pair nor the token.
        """
        values = {key: base64.b64decode(value).decode().strip() for key, value in data.items()}
        found = Credentials(
            username=values.get("MLFLOW_TRACKING_USERNAME", ""),
            password=values.get("MLFLOW_TRACKING_PASSWORD", ""),
            token=values.get("MLFLOW_TRACKING_TOKEN", ""),
        )
        if not found.token and not (found.username and found.password):
            raise ValueError(
                "the Secret needs MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD,"
                " or MLFLOW_TRACKING_TOKEN"
            )
        return found

    def headers(self) -> dict[str, str]:
        """The Authorization header; the pair wins over the token, as in MLflow's client."""
        if self.username and self.password:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class MlflowError(TrackingError):
    """An answer of the server that is an error."""

    def __init__(
        self,
        message: str,
        code: str,
        *,
        credentials: bool = False,
        missing: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(message, credentials=credentials, missing=missing, refused=refused)
        self.code = code
        """MLflow's error_code, such as RESOURCE_ALREADY_EXISTS."""


class NoAnswerError(TrackingError):
    """The server was given enough time."""


class RestClient:
    """Requests to one server with one set of credentials, so many at a time.

    ``ca_pem`` adds authorities to the system's. ``timeout_seconds`` is the limit of a whole
    call from its turn on, its one retry included. Connections open with the first call, also
    after ``close``.
    """

    def __init__(
        self,
        uri: str,
        credentials: Credentials | None = None,
        ca_pem: str | None = None,
        timeout_seconds: float = 5.0,
    ) -> None:
        self._uri = uri.rstrip("/")
        self._credentials = credentials or Credentials()
        self._ca_pem = ca_pem
        self._timeout = timeout_seconds
        self._place = Place(NoAnswerError)
        self._session: aiohttp.ClientSession | None = None

    @property
    def shown_uri(self) -> str:
        """The address for messages."""
        return redacted(self._uri)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def call(
        self,
        method: Method,
        endpoint: str,
        body: JsonObject | None = None,
        *,
        query: dict[str, str] | None = None,
    ) -> JsonObject:
        """Call an endpoint of the REST API, such as ``runs/search``.

        Raises TrackingError; MlflowError when the server has answered.
        """
        # A search changes nothing although it is a POST.
        retry = method == "GET" or endpoint.endswith("/search")
        path = f"/api/2.0/mlflow/{endpoint}"
        text = await self.text(method, path, body=body, query=query, retry=retry)
        try:
            return cast("JsonObject", json.loads(text)) if text else {}
        except ValueError:
            raise TrackingError(
                f"{self.shown_uri} does not answer as an MLflow server; check the address"
            ) from None

    async def text(
        self,
        method: Method,
        path: str,
        *,
        body: JsonObject | None = None,
        data: bytes | None = None,
        query: dict[str, str] | None = None,
        retry: bool = False,
    ) -> str:
        """One request to a path below the server's address; the answer's text."""
        # MLflow never redirects: what does is a log-in page or an http address of an https server,
        # and a POST would arrive there as a GET.
        arguments: JsonObject = {
            "params": query,
            "json": body,
            "data": data,
            "allow_redirects": False,
        }
        try:
            async with self._place.call():
                return await self._in_time(method, path, arguments, retry=retry)
        except SilentError as error:
            raise TrackingError(str(error)) from None

    async def _in_time(
        self, method: Method, path: str, arguments: JsonObject, *, retry: bool
    ) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._once(method, path, arguments, retry=retry)
        except TimeoutError:
            raise NoAnswerError(
                f"{self.shown_uri} did not answer within {self._timeout:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise TrackingError(
                f"{self.shown_uri} can't be reached: {redacted(str(error))[:MAX_MESSAGE]}"
            ) from None

    async def _once(self, method: Method, path: str, arguments: JsonObject, *, retry: bool) -> str:
        session = self._open()
        try:
            async with session.request(method, self._uri + path, **arguments) as response:
                text = await response.text()
                if response.status < 300:
                    return text
                if not (retry and response.status in _UNAVAILABLE):
                    raise self._error(response, text)
        except aiohttp.ClientError:
            if not retry:
                raise
        await asyncio.sleep(RETRY_PAUSE_SECONDS)
        return await self._once(method, path, arguments, retry=False)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context()
            if self._ca_pem:
                try:
                    context.load_verify_locations(cadata=self._ca_pem)
                except (ssl.SSLError, ValueError) as error:
                    raise TrackingError(
                        f"the CA bundle holds no PEM certificates: {error}"
                    ) from None
            self._session = aiohttp.ClientSession(
                headers={**self._credentials.headers(), "User-Agent": "kubetune"},
                connector=aiohttp.TCPConnector(limit=CALLS_AT_ONCE, ssl=context),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _error(self, response: aiohttp.ClientResponse, text: str) -> TrackingError:
        status = response.status
        code, message = "", redacted(" ".join(text.split()))[:MAX_MESSAGE]
        try:
            answer: Any = json.loads(text)
            code, message = str(answer["error_code"]), redacted(str(answer["message"]))
        except (ValueError, KeyError, TypeError):
            pass
        if "Invalid Host header" in message:
            return TrackingError(
                f"{self.shown_uri} does not accept this host name; start MLflow with"
                " --allowed-hosts that lists it with its port"
            )
        if 300 <= status < 400:
            target = redacted(response.headers.get("Location", "elsewhere"))
            return TrackingError(
                f"{self.shown_uri} redirects to {target[:MAX_MESSAGE]}; give MLflow's own address"
            )
        if status in (401, 403):
            message = message or "no reason given"
            return MlflowError(
                f"{self.shown_uri} refuses the credentials (HTTP {status}): {message}",
                code,
                credentials=True,
            )
        return MlflowError(
            f"{self.shown_uri} answered HTTP {status}: {message[:MAX_MESSAGE] or 'no text'}",
            code,
            missing=code == "RESOURCE_DOES_NOT_EXIST",
            # Without a code it is the word of something before MLflow, such as an ingress.
            refused=bool(code) and status in _REFUSED and code not in _PASSING,
        )


def redacted(text: str) -> str:
    """The text without credentials in addresses."""
    return _USERINFO.sub("***@", text)
