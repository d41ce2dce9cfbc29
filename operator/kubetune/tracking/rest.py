"""Requests to an MLflow server, as coroutines with a hard time limit.

The base of kubetune.tracking.mlflow. MLflow's own client blocks, retries for minutes and takes
seconds of CPU to import, so the operator speaks the REST API.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from yarl import URL

from kubetune.api import JsonObject
from kubetune.api.bounded import ANSWER, NOTE, LimitError, Limits, decoded, json_object
from kubetune.api.conditions import Reason
from kubetune.api.foreign import answered, error_fields, first_line, text_of
from kubetune.api.run.redact import without_credentials
from kubetune.api.schema.addresses import is_http_address
from kubetune.clients.addresses import origin
from kubetune.clients.answers import ACCEPT_ENCODING, body
from kubetune.clients.egress import OPEN, Egress, EgressError
from kubetune.clients.permission import NOT_LEADING, always, permits
from kubetune.clients.resolver import Resolver
from kubetune.queue.outside import CALLS_AT_ONCE, Place, SilentError
from kubetune.tracking.base import TrackingError

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

RETRY_PAUSE_SECONDS = 0.2
REFUSED_SECONDS = 30.0
"""An answer that was refused is not asked for again before: somebody has to mend it first."""
MAX_REFUSED = 32
_UNAVAILABLE = frozenset({502, 503, 504})
_REFUSED = frozenset({400, 404, 405, 409, 410, 413, 422})
_PASSING = frozenset({"ABORTED", "RESOURCE_CONFLICT", "REQUEST_LIMIT_EXCEEDED"})
"""Codes of MLflow that come with such a status all the same."""


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
        values = {
            key: decoded(data.get(key, ""), NOTE).decode().strip()
            for key in (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))
        }
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
        egress: Egress = OPEN,
        may_write: Callable[[], bool] = always,
    ) -> None:
        self._egress = egress
        self._may_write = may_write
        self._uri = uri.rstrip("/")
        self._credentials = credentials or Credentials()
        self._ca_pem = ca_pem
        self._timeout = timeout_seconds
        self._place = Place(NoAnswerError)
        self._session: aiohttp.ClientSession | None = None
        self._refused: dict[str, tuple[float, str]] = {}

    @property
    def shown_uri(self) -> str:
        """The address for messages."""
        return without_credentials(self._uri)

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
        data = await self._request(method, path, body, None, query, ANSWER, retry=retry)
        try:
            return json_object(data) if data else {}
        except LimitError as error:
            raise self._remembered(self._over(error), method, path, body, query) from None
        except ValueError:
            raise TrackingError(
                f"{self.shown_uri} does not answer as an MLflow server; check the address"
            ) from None

    async def text(
        self,
        method: Method,
        path: str,
        *,
        data: bytes | None = None,
        query: dict[str, str] | None = None,
        retry: bool = False,
        limits: Limits = NOTE,
    ) -> str:
        """One request to a path below the server's address; the answer's text."""
        found = await self._request(method, path, None, data, query, limits, retry=retry)
        return found.decode(errors="replace")

    async def _request(
        self,
        method: Method,
        path: str,
        document: JsonObject | None,
        data: bytes | None,
        query: dict[str, str] | None,
        limits: Limits,
        *,
        retry: bool,
    ) -> bytes:
        if not is_http_address(self._uri):
            raise TrackingError(
                "the address of the tracking server must have the form http://host:port/path,"
                " without credentials, ?, # and .."
            )
        now = asyncio.get_running_loop().time()
        until, refusal = self._refused.get(_asked(method, path, document, query), (0.0, ""))
        if now < until:
            raise TrackingError(refusal, reason=Reason.ANSWER_REFUSED)
        # MLflow never redirects: what does is a log-in page or an http address of an https server,
        # and a POST would arrive there as a GET.
        arguments: JsonObject = {
            "params": query,
            "json": document,
            "data": data,
            "allow_redirects": False,
        }
        try:
            async with self._place.call():
                return await self._in_time(method, path, arguments, limits, retry=retry)
        except SilentError as error:
            raise TrackingError(str(error)) from None
        except LimitError as error:
            over = self._over(error)
        except ValueError as error:
            over = TrackingError(
                f"the answer of {self.shown_uri} can't be read: {first_line(str(error))}",
                reason=Reason.ANSWER_REFUSED,
            )
        raise self._remembered(over, method, path, document, query)

    async def _in_time(
        self, method: Method, path: str, arguments: JsonObject, limits: Limits, *, retry: bool
    ) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._once(method, path, arguments, limits, retry=retry)
        except TimeoutError:
            raise NoAnswerError(
                f"{self.shown_uri} did not answer within {self._timeout:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise TrackingError(
                f"{self.shown_uri} can't be reached: {first_line(str(error))}"
            ) from None
        except EgressError as error:
            raise TrackingError(
                f"{self.shown_uri} is not called: {error}", reason=Reason.EGRESS_REFUSED
            ) from None

    def _remembered(
        self,
        refusal: TrackingError,
        method: Method,
        path: str,
        document: JsonObject | None,
        query: dict[str, str] | None,
    ) -> TrackingError:
        """The refusal, which is the answer to the same question for a while."""
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        until = asyncio.get_running_loop().time() + REFUSED_SECONDS
        self._refused[_asked(method, path, document, query)] = until, str(refusal)
        return refusal

    async def _once(
        self, method: Method, path: str, arguments: JsonObject, limits: Limits, *, retry: bool
    ) -> bytes:
        session = self._open()
        # Encoded: no part that was escaped may become a folder, and no dots another one.
        url = URL(self._uri + path, encoded=True)
        # A search changes nothing, and may be repeated.
        if method != "GET" and not (retry or path.endswith("/search") or permits(self._may_write)):
            raise TrackingError(NOT_LEADING)
        try:
            async with session.request(method, url, **arguments) as response:
                if response.status < 300:
                    return await body(response, limits)
                if not (retry and response.status in _UNAVAILABLE):
                    raise await self._error(response)
        except aiohttp.ClientError:
            if not retry:
                raise
        await asyncio.sleep(RETRY_PAUSE_SECONDS)
        return await self._once(method, path, arguments, limits, retry=False)

    def _over(self, error: LimitError) -> TrackingError:
        return TrackingError(
            f"an answer of {self.shown_uri} is refused: {error}; check that the address is"
            " MLflow's, and delete what makes its answers so large",
            reason=Reason.ANSWER_REFUSED,
        )

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
                headers={
                    **self._credentials.headers(),
                    "User-Agent": "kubetune",
                    "Accept-Encoding": ACCEPT_ENCODING,
                },
                auto_decompress=False,
                connector=aiohttp.TCPConnector(
                    limit=CALLS_AT_ONCE,
                    ssl=context,
                    resolver=Resolver(),
                    socket_factory=self._egress.sockets(URL(self._uri).host or ""),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _error(self, response: aiohttp.ClientResponse) -> TrackingError:
        status, kind = response.status, response.headers.get("Content-Type", "")
        if 300 <= status < 400:
            target = origin(response.headers.get("Location", "")) or "another place"
            return TrackingError(
                f"{self.shown_uri} redirects to {target}; give MLflow's own address"
            )
        try:
            answer = await body(response, NOTE)
        except ValueError:
            answer = b""
        if b"Invalid Host header" in answer[:1000]:
            return TrackingError(
                f"{self.shown_uri} does not accept this host name; start MLflow with"
                " --allowed-hosts that lists it with its port"
            )
        fields = error_fields(answer)
        code = text_of(fields.get("error_code"))[:64]
        said = answered(status, kind, text_of(fields.get("message")) if code else "")
        if status in (401, 403):
            return MlflowError(
                f"{self.shown_uri} refuses the credentials: {said}", code, credentials=True
            )
        return MlflowError(
            f"{self.shown_uri} answered {said}",
            code,
            missing=code == "RESOURCE_DOES_NOT_EXIST",
            # Without a code it is the word of something before MLflow, such as an ingress.
            refused=bool(code) and status in _REFUSED and code not in _PASSING,
        )


def _asked(*question: object) -> str:
    return repr(question)
