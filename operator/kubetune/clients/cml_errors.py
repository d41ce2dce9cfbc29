"""What can go wrong with a call to a CML workspace, by what the caller should do about it.

The ``cmlapi`` package lets two families of exceptions through, its own ApiException and those
of urllib3; ``translated`` makes one of the classes here from either.
"""

from __future__ import annotations

import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

from kubetune.api.bounded import LimitError, PackedError
from kubetune.api.foreign import answered, error_fields, text_of
from kubetune.clients.addresses import origin
from kubetune.clients.egress import EgressError

MAX_MESSAGE = 300
DEFAULT_RETRY_AFTER = 10.0
MAX_RETRY_AFTER = 300.0
REFUSAL_SECONDS = 30.0

_UNAUTHENTICATED, _FORBIDDEN, _NOT_FOUND = 16, 7, 5
_CONFLICTS = frozenset({6, 9})
_CONFLICT_TEXT = re.compile(r"\balready (?:active|exists?|running|has an? )", re.IGNORECASE)
# A timeout that a server or proxy reports in the range of the caller's own mistakes.
_TIMED_OUT = frozenset({408, 425, 499})
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify|hostname|WRONG_VERSION")

_SECRETS = (
    (re.compile(r"(?<=://)[^/\s@]+@"), "***@"),
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE), r"\1 ***"),
    (
        re.compile(
            r"\b([\w-]*(?:api_?-?key|token|password|secret|authorization))"
            r"([\"']?\s*[=:]\s*[\"']?)(?!bearer|basic)[^\s\"',;}&]+",
            re.IGNORECASE,
        ),
        r"\1\2***",
    ),
    (re.compile(r"\beyJ[\w-]+(?:\.[\w-]+)*"), "***"),
    (re.compile(r"\b[0-9a-fA-F]{32,}(?:\.[0-9a-fA-F]+)*\b|\b[A-Za-z0-9_]{40,}\b"), "***"),
)
_CONNECTION = re.compile(r"^(?:<[^>]*>|\w+\([^)]*\)): ")


class CmlError(Exception):
    """A call to a workspace failed; the message is for users and never holds a credential."""

    retryable: ClassVar[bool] = False
    """Whether waiting may help although nobody changes anything."""


class CredentialsError(CmlError):
    """The workspace refuses the API key, or the key's owner may not do this."""

    def __init__(self, message: str, *, key_refused: bool = False) -> None:
        super().__init__(message)
        self.key_refused = key_refused
        """Whether the key itself is refused, not just this operation with it."""


class NotFoundError(CmlError):
    """There is no such object, or the key's owner can't see it."""


class ConflictError(CmlError):
    """The object exists already, or its state forbids the call."""


class InvalidError(CmlError):
    """The same request would be refused again."""


class ThrottledError(CmlError):
    """Too many requests; nothing was changed."""

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to leave the workspace alone."""


class UnavailableError(CmlError):
    """The workspace can't be reached or can't answer, and nothing was changed for sure."""

    retryable: ClassVar[bool] = True


class UnknownOutcomeError(CmlError):
    """A write whose answer was lost: it may have happened, or may still happen.

    Look before writing again: the API knows no idempotency keys.
    """

    retryable: ClassVar[bool] = True


class AnswerRefusedError(CmlError):
    """An answer is over the limits of what is read; a write may have happened all the same."""

    retryable: ClassVar[bool] = True


class EgressRefusedError(CmlError):
    """The address leads to where the operator doesn't connect."""

    retryable: ClassVar[bool] = True


class PackageMissingError(CmlError):
    """The ``cmlapi`` package is not installed where the operator runs."""


class UnreadableAnswerError(Exception):
    """An answer of success that is not the API's; raised and translated within the client."""


@dataclass(frozen=True)
class Call:
    """What was called, as far as an error's class and message depend on it."""

    url: str
    operation: str
    writes: bool
    api_key: str = field(default="", repr=False)

    def message(self, text: str) -> str:
        """A short message without credentials."""
        # What fails may quote what it failed for, at any length.
        text = text[: 8 * MAX_MESSAGE]
        if self.api_key:
            text = text.replace(self.api_key, "***")
        return shortened(redacted(f"{self.url} {text}"))

    def lost(self, text: str) -> CmlError:
        """The error for an answer that did not arrive, or is worth nothing."""
        if self.writes:
            return UnknownOutcomeError(self.message(f"{text}; it may have happened all the same"))
        return UnavailableError(self.message(text))


class Gate:
    """Answers for the workspace, for a while, after it has asked for rest or refused the key.

    A refused key is remembered by operation: some workspaces answer 401 to a key that may only
    not use the registry. When the time is over one call goes through, to see.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._quiet: tuple[float, str] = (0.0, "")
        self._refused: dict[str, tuple[float, str]] = {}

    def enter(self, operation: str) -> None:
        """Raises the error of an earlier call while the same would come of this one."""
        with self._lock:
            now = self._clock()
            until, message = self._quiet
            if message and now < until:
                raise ThrottledError(message, until - now)
            until, message = self._refused.get(operation, (0.0, ""))
            if not message:
                return
            if now < until:
                raise CredentialsError(message, key_refused=True)
            self._refused[operation] = (now + REFUSAL_SECONDS, message)

    def leave(self, operation: str, error: CmlError | None) -> None:
        """Take note of how a call has ended."""
        with self._lock:
            now = self._clock()
            if isinstance(error, CredentialsError) and error.key_refused:
                self._refused[operation] = (now + REFUSAL_SECONDS, str(error))
                return
            if isinstance(error, ThrottledError):
                until = max(self._quiet[0], now + error.retry_after)
                self._quiet = (until, str(error))
            if not isinstance(error, (ThrottledError, UnavailableError, UnknownOutcomeError)):
                self._refused.pop(operation, None)
            elif operation in self._refused:
                # This tells nothing about the key: the next call may look again.
                self._refused[operation] = (now, self._refused[operation][1])


def translated(error: Exception, call: Call) -> CmlError:
    """The error of ours for an exception out of the ``cmlapi`` package."""
    from urllib3.exceptions import HTTPError

    if isinstance(error, CmlError):
        return error
    if isinstance(error, EgressError):
        return EgressRefusedError(call.message(f"is not called: {error}"))
    if isinstance(error, socket.gaierror):
        return UnavailableError(call.message(f"can't be reached: {error.strerror}"))
    if isinstance(error, (LimitError, PackedError)):
        text = f"answered {call.operation} with what isn't read: {error}; check the address"
        return call.lost(text) if call.writes else AnswerRefusedError(call.message(text))
    if isinstance(error, TimeoutError):
        return call.lost(f"did not answer {call.operation} in time")
    if isinstance(error, UnreadableAnswerError):
        return call.lost(
            f"did not answer {call.operation} as a CML workspace: {error};"
            " check the address, and that the cmlapi package is of this workspace"
        )
    if isinstance(error, HTTPError):
        return _of_transport(error, call)
    if isinstance(error, UnicodeDecodeError):
        # The package decodes a body before it looks at the status, which is lost with it.
        return call.lost(f"answered {call.operation} with text that is not UTF-8")
    if hasattr(error, "status"):
        return _of_answer(error, call)
    # Raised before anything is sent: an argument that this version of the package doesn't know.
    return InvalidError(
        call.message(
            f"was not asked: the installed cmlapi package refuses {call.operation}: {error}"
        )
    )


def redacted(text: str) -> str:
    """The text without what looks like a credential."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """The text on one line, cut to ``limit`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _of_transport(error: Exception, call: Call) -> CmlError:
    from urllib3 import exceptions

    if isinstance(error, exceptions.MaxRetryError) and error.reason:
        error = error.reason
    text = shortened(_CONNECTION.sub("", str(error)), MAX_MESSAGE // 2)
    if isinstance(error, exceptions.LocationValueError):
        return InvalidError(call.message(f"is not an address of a workspace: {text}"))
    # Refused connections and unknown hosts: in some versions of urllib3 a subclass of the
    # connection timeout, in others not.
    if isinstance(error, (exceptions.NewConnectionError, exceptions.ConnectTimeoutError)):
        return UnavailableError(call.message(f"can't be reached: {text}"))
    if isinstance(error, exceptions.SSLError):
        return _of_tls(text, error, call)
    if isinstance(error, exceptions.ReadTimeoutError):
        return call.lost(f"did not answer {call.operation} in time")
    return call.lost(f"broke the connection during {call.operation}: {text}")


def _of_tls(text: str, error: Exception, call: Call) -> CmlError:
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = cause.verify_message or text
    elif not _CERTIFICATE.search(text):
        return call.lost(f"broke the TLS connection during {call.operation}: {text}")
    return UnavailableError(
        call.message(
            f"can't be trusted: {text}; give the certificates of its authority as CA bundle"
        )
    )


def _of_answer(error: Any, call: Call) -> CmlError:
    status: int = error.status or 0
    code, text = _read_body(error.body)
    if not status:
        # The package's own form of a TLS error, or a field that it can't parse.
        reason = shortened(str(error.reason or "") or "no text", MAX_MESSAGE // 2)
        return (
            _of_tls(reason, error, call)
            if "SSL" in reason
            else call.lost(f"answered {call.operation} in a form that can't be read: {reason}")
        )
    exists = _CONFLICT_TEXT.search(text or _start_of(error.body))
    # What isn't an error of the API may be anybody's page: its text is nobody's business.
    told = answered(status, _header(error.headers, "Content-Type") or "", text)
    said = f"answered {call.operation} with {told}"
    if status == 429:
        return ThrottledError(call.message(said), retry_after(error.headers))
    if status == 401 or code == _UNAUTHENTICATED:
        return CredentialsError(call.message(f"refuses the API key: {told}"), key_refused=True)
    if status == 403 or code == _FORBIDDEN:
        return CredentialsError(
            call.message(f"does not allow {call.operation} with this API key: {told}")
        )
    if code == _NOT_FOUND or (status == 404 and code is not None):
        return NotFoundError(call.message(said))
    if status == 409 or code in _CONFLICTS or exists:
        return ConflictError(call.message(said))
    if 300 <= status < 400:
        target = origin(_header(error.headers, "Location") or "") or "another place"
        return UnavailableError(
            call.message(f"redirects {call.operation} to {target}; give the workspace's address")
        )
    if status == 404:
        # Not the API's own form. A proxy before a workspace that is down says this of every
        # object, and must not be believed that they are all deleted.
        return UnavailableError(
            call.message(f"{said} (which may come from a proxy before the workspace)")
        )
    if status >= 500 or status in _TIMED_OUT:
        return call.lost(said)
    return InvalidError(call.message(said))


def _read_body(body: Any) -> tuple[int | None, str]:
    """The gRPC code (0 when the API's error has none; None when it isn't one) and its message."""
    answer = error_fields(body if isinstance(body, bytes) else str(body or ""))
    if not {"code", "message", "error"} & answer.keys():
        return None, ""
    code = answer.get("code")
    message = text_of(answer.get("message")) or text_of(answer.get("error"))
    return code if isinstance(code, int) else 0, message


def _start_of(body: Any) -> str:
    return (
        body[:MAX_MESSAGE].decode("utf-8", "replace")
        if isinstance(body, bytes)
        else str(body)[:MAX_MESSAGE]
    )


def retry_after(headers: Any) -> float:
    """Seconds from a Retry-After header, given as seconds or as a date, within bounds."""
    value = (_header(headers, "Retry-After") or "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return DEFAULT_RETRY_AFTER
    if not math.isfinite(seconds):
        return DEFAULT_RETRY_AFTER
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _header(headers: Any, name: str) -> str | None:
    for key, value in dict(headers or {}).items():
        if str(key).lower() == name.lower():
            return str(value)
    return None
