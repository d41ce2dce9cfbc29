"""The only caller of the ``cmlapi`` package, as coroutines with typed errors.

Each workspace serves its own version of the package, so it is an optional dependency that is
imported with the first call. It blocks, knows no time limits and repeats requests on its own
unless told otherwise; all of that is settled here.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import logging
import posixpath
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar, cast

from kubetune.api import JsonObject
from kubetune.api.bounded import ANSWER, LimitError
from kubetune.api.schema.addresses import is_http_address
from kubetune.clients.answers import body_in_thread
from kubetune.clients.cml_answers import answer_of, page_of, strict
from kubetune.clients.cml_errors import (
    Call,
    CmlError,
    ConflictError,
    CredentialsError,
    Gate,
    InvalidError,
    NotFoundError,
    PackageMissingError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
    UnreadableAnswerError,
    redacted,
    translated,
)
from kubetune.clients.cml_models import Answer, Body
from kubetune.clients.cml_operations import DOWNLOAD_FILE, UPLOAD_FILE, Listing, Operation
from kubetune.clients.cml_transport import pool_manager, within
from kubetune.clients.egress import OPEN, Egress
from kubetune.clients.permission import NOT_LEADING, always, permits
from kubetune.queue.outside import CALLS_AT_ONCE, Place, SilentError

__all__ = [
    "CmlClient",
    "CmlError",
    "ConflictError",
    "CredentialsError",
    "InvalidError",
    "NotFoundError",
    "PackageMissingError",
    "ThrottledError",
    "UnavailableError",
    "UnknownOutcomeError",
]

A = TypeVar("A", bound=Answer)
T = TypeVar("T")

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
PAGE_SIZE = 100
MAX_PAGES = 1000
MAX_DOWNLOAD_BYTES = 2**20


class CmlClient:
    """Calls to one workspace with one API key.

    ``concurrency`` bounds the calls at one time; the others wait in line. A call is sent at most
    once. When a coroutine is cancelled its call is not made, or, when it is under way, goes on
    unseen: what was written is then as unknown as after an UnknownOutcomeError. ``ca_pem`` adds
    authorities to the system's. ``timeouts`` are for connecting and for each wait for an answer.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        ca_pem: str | None = None,
        *,
        concurrency: int = CALLS_AT_ONCE,
        timeouts: tuple[int, int] = (CONNECT_SECONDS, ANSWER_SECONDS),
        egress: Egress = OPEN,
        may_write: Callable[[], bool] = always,
    ) -> None:
        self._may_write = may_write
        self.url = url.strip().rstrip("/").removesuffix("/api/v2").rstrip("/")
        self.user = ""
        """Name of the key's owner, once an answer has told it: there is no way to ask."""
        self._api_key = api_key.strip()
        self._ca_pem = ca_pem
        self._egress = egress
        self._concurrency = concurrency
        # The package ignores timeouts that aren't an int or a pair, without a word.
        self._timeouts = (int(timeouts[0]), int(timeouts[1]))
        self._place = Place((UnavailableError, UnknownOutcomeError), concurrency)
        self._gate = Gate()
        self._opening = threading.Lock()
        self._api: Any = None
        # As many threads as calls may run: not the loop's own, where one slow workspace
        # would hold up everybody, and no lock that is bound to a loop.
        self._threads: ThreadPoolExecutor | None = None
        self._writes: set[Future[Any]] = set()
        """Those under way, also of coroutines that were cancelled."""

    async def read(self, operation: Operation[A], *ids: str) -> A:
        """Call an operation that changes nothing, such as GET_JOB; raises CmlError."""
        operation.check(ids, None, set())
        return await self._in_thread(
            operation.name,
            lambda api: answer_of(operation, self._called(api, operation, ids, {})),
            writes=False,
        )

    async def write(self, operation: Operation[A], *ids: str, body: Body | None = None) -> A:
        """Call an operation that changes something; raises CmlError.

        After an UnknownOutcomeError look whether it has happened before calling again.
        """
        operation.check(ids, body, set())
        arguments = ids if body is None else (body.model_dump(exclude_none=True), *ids)
        return await self._in_thread(
            operation.name,
            lambda api: answer_of(operation, self._called(api, operation, arguments, {})),
            writes=True,
        )

    async def pages(
        self, operation: Listing[A], *ids: str, sort: str = "", search_filter: str = ""
    ) -> list[A]:
        """The items on all pages of a list; raises CmlError."""
        items: list[A] = []
        tokens: set[str] = set()
        token = ""
        while True:
            found, token = await self.page(
                operation, *ids, token=token, sort=sort, search_filter=search_filter
            )
            items += found
            if not token:
                return items
            if token in tokens or len(tokens) >= MAX_PAGES:
                # Half a list is worse than none: what isn't on it would be made again.
                raise UnavailableError(
                    f"{redacted(self.url)} gives no end to the pages of {operation.name}"
                )
            tokens.add(token)

    async def page(
        self,
        operation: Listing[A],
        *ids: str,
        token: str = "",
        size: int = PAGE_SIZE,
        sort: str = "",
        search_filter: str = "",
    ) -> tuple[list[A], str]:
        """The items on one page of a list and the token of the next; raises CmlError."""
        options = {"search_filter": search_filter, "sort": sort, "page_token": token}
        sent = {name: value for name, value in options.items() if value} | {"page_size": size}
        operation.check(ids, None, {*sent})
        return await self._in_thread(
            operation.name,
            lambda api: page_of(operation, self._called(api, operation, ids, sent)),
            writes=False,
        )

    async def upload(self, project_id: str, path: str, content: bytes) -> None:
        """Write a file of the project, over one that is there; raises CmlError.

        To upload the same again is safe.
        """
        target = _file_path(path)

        def send(api: Any) -> None:
            # The package's own upload_file names every file after the local one that it reads.
            method, path = UPLOAD_FILE
            _, _, headers = api.api_client.call_api(
                path,
                method,
                path_params={"project_id": project_id},
                header_params={"Accept": "application/json", "Content-Type": "multipart/form-data"},
                post_params=[
                    (target, (posixpath.basename(target), content, "application/octet-stream"))
                ],
                _request_timeout=self._timeouts,
            )
            if "html" in str(dict(headers).get("Content-Type", "")):
                raise UnreadableAnswerError("a web page came back")

        await self._in_thread("upload_file", send, writes=True)

    async def download(self, project_id: str, path: str) -> bytes:
        """The content of a file of the project; raises NotFoundError, CmlError."""
        target = _file_path(path)

        def receive(api: Any) -> bytes:
            # What the package declares as the answer is not what a file is.
            response = api.download_project_file(
                project_id, target, _preload_content=False, _request_timeout=self._timeouts
            )
            limits = replace(ANSWER, received=MAX_DOWNLOAD_BYTES, unpacked=MAX_DOWNLOAD_BYTES)
            try:
                return body_in_thread(response, time.monotonic() + self._seconds, limits)
            except LimitError as error:
                response.close()
                raise InvalidError(f"the project's file {target} is refused: {error}") from None
            except BaseException:
                # With a rest unread the connection is of no more use.
                response.close()
                raise
            finally:
                response.release_conn()

        return await self._in_thread(DOWNLOAD_FILE.name, receive, writes=False)

    async def supports(self, operation: Operation[Any]) -> bool:
        """Whether the installed package has an operation; raises PackageMissingError."""
        api = await self._submit(self._open)
        return callable(getattr(api, operation.name, None))

    async def answered(self, seconds: float) -> None:
        """Return when no write is under way any more, or after so long."""
        if calls := [asyncio.wrap_future(call) for call in list(self._writes)]:
            await asyncio.wait(calls, timeout=seconds)

    async def close(self) -> None:
        """Close the connections; those in use when their calls end. A later call opens again."""
        threads, self._threads = self._threads, None
        if threads:
            threads.shutdown(wait=False)
        if self._api is not None:
            # Only those at rest; urllib3 closes the others when they come back.
            self._api.api_client.rest_client.pool_manager.clear()

    def _called(
        self, api: Any, operation: Operation[Any], arguments: tuple[Any, ...], options: JsonObject
    ) -> JsonObject | None:
        """The answer as the package gives it; None when it is empty."""
        method = getattr(api, operation.name, None)
        if method is None:
            raise InvalidError(
                f"the installed cmlapi package has no {operation.name};"
                f" install the one of this workspace: {self._install_line()}"
            )
        answer: Any = method(*arguments, **{**options, "_request_timeout": self._timeouts})
        as_dict = getattr(answer, "to_dict", None)
        if as_dict is not None:
            answer = as_dict()
        return cast("JsonObject", answer) if isinstance(answer, dict) else None

    async def _in_thread(self, operation: str, run: Callable[[Any], T], *, writes: bool) -> T:
        loop = asyncio.get_running_loop()
        # Threads know nothing of the context of who calls.
        context = contextvars.copy_context()
        return await self._submit(
            lambda: context.run(self._run, operation, run, writes, loop), writes=writes
        )

    async def _submit(self, work: Callable[[], T], *, writes: bool = False) -> T:
        try:
            async with self._place.call():
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="cml")
                call = self._threads.submit(work)
                if writes:
                    self._writes.add(call)
                    call.add_done_callback(self._writes.discard)
                return await asyncio.wrap_future(call)
        except SilentError as error:
            # Nothing was sent.
            raise UnavailableError(str(error)) from None

    def _run(
        self,
        operation: str,
        run: Callable[[Any], T],
        writes: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> T:
        # The gate is asked when a call's turn has come, not when it gets in line.
        self._gate.enter(operation)
        failure: CmlError | None = None
        with within(self._seconds, loop) as deadline:
            try:
                if writes and not permits(self._may_write):
                    raise UnavailableError(NOT_LEADING)
                return run(self._open())
            except Exception as error:
                call = Call(redacted(self.url), operation, writes, self._api_key)
                # A connection that was shut looks like one that broke.
                failure = translated(TimeoutError() if deadline.over else error, call)
                raise failure from None
            finally:
                self._gate.leave(operation, failure)

    @property
    def _seconds(self) -> float:
        """The most that one call takes."""
        return sum(self._timeouts) + self._timeouts[1]

    def _open(self) -> Any:
        with self._opening:
            if self._api is None:
                self._check()
                try:
                    package = importlib.import_module("cmlapi")
                except ImportError as error:
                    raise PackageMissingError(
                        f"the cmlapi package can't be imported ({error}); install the one that"
                        f" the workspace serves: {self._install_line()}"
                    ) from None
                self._api = package.CMLServiceApi(self._new_api_client(package))
            return self._api

    def _check(self) -> None:
        if not is_http_address(self.url):
            raise InvalidError(
                f"the workspace's url {redacted(self.url)!r} needs the form https://<host>"
            )
        if not self._api_key.isascii() or not self._api_key.isprintable() or not self._api_key:
            raise CredentialsError(
                f"the API key for {redacted(self.url)} is empty or holds characters that no key"
                " has; copy it again from the workspace's User Settings, API Keys",
                key_refused=True,
            )

    def _new_api_client(self, package: Any) -> Any:
        with _loggers_kept():
            configuration = package.Configuration()
        configuration.host = self.url
        configuration.connection_pool_maxsize = self._concurrency
        api_client = strict(package.ApiClient)(configuration)
        api_client.set_default_header("authorization", f"Bearer {self._api_key}")
        api_client.user_agent = "kubetune"
        unused = vars(api_client).get("pool")
        if unused is not None:
            # Five threads or more, for calls of a kind that isn't made here.
            unused.close()
            unused.join()
        api_client.rest_client.pool_manager.clear()
        api_client.rest_client.pool_manager = pool_manager(
            self._egress, self._concurrency, self._ca_pem, tls=self.url.startswith("https")
        )
        return api_client

    def _install_line(self) -> str:
        return f"pip install {redacted(self.url)}/api/v2/python.tar.gz"


def _file_path(path: str) -> str:
    cleaned = posixpath.normpath(path)
    if not path or path.startswith("/") or cleaned in (".", "..") or cleaned.startswith("../"):
        raise InvalidError(f"the project file path {path!r} must be relative and stay within")
    return cleaned


@contextlib.contextmanager
def _loggers_kept() -> Generator[None]:
    """Undo what the package's Configuration does to other people's loggers."""
    urllib3, package = logging.getLogger("urllib3"), logging.getLogger("cmlapi")
    kept = [(logger, logger.level, list(logger.handlers)) for logger in (urllib3, package)]
    try:
        yield
    finally:
        for logger, level, handlers in kept:
            logger.setLevel(level)
            logger.handlers[:] = handlers
        # It logs whole answers, access keys of models among them.
        package.setLevel(logging.WARNING)
