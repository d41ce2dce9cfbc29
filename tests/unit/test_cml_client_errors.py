"""How the CML client reads, names and remembers what goes wrong."""

import ssl
from typing import Any

import pytest
from kubetune.clients.cml_errors import (
    DEFAULT_RETRY_AFTER,
    MAX_RETRY_AFTER,
    REFUSAL_SECONDS,
    Call,
    CmlError,
    CredentialsError,
    Gate,
    InvalidError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
    redacted,
    retry_after,
    shortened,
    translated,
)
from urllib3 import exceptions
from urllib3.connectionpool import HTTPConnectionPool

POOL = HTTPConnectionPool("ml.example.com")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("999999", MAX_RETRY_AFTER),
        ("inf", DEFAULT_RETRY_AFTER),
        ("nan", DEFAULT_RETRY_AFTER),
        ("", DEFAULT_RETRY_AFTER),
        ("soon", DEFAULT_RETRY_AFTER),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2099 00:00:00 GMT", MAX_RETRY_AFTER),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_bounds(value: str, seconds: float):
    assert retry_after({"retry-AFTER": value}) == seconds


@pytest.mark.parametrize("headers", [None, {}, {"Content-Type": "text/html"}])
def test_without_retry_after_there_is_a_default(headers: Any):
    assert retry_after(headers) == DEFAULT_RETRY_AFTER


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("cause", "on_read", "on_write"),
    [
        (
            exceptions.NewConnectionError(POOL, "[Errno 111] Connection refused"),  # type: ignore[arg-type]
            UnavailableError,
            UnavailableError,
        ),
        (exceptions.ConnectTimeoutError("timed out"), UnavailableError, UnavailableError),
        (exceptions.SSLError(certificate_error()), UnavailableError, UnavailableError),
        (exceptions.SSLError("bad record mac"), UnavailableError, UnknownOutcomeError),
        (
            exceptions.ReadTimeoutError(POOL, "/", "timed out"),
            UnavailableError,
            UnknownOutcomeError,
        ),
        (exceptions.ProtocolError("aborted"), UnavailableError, UnknownOutcomeError),
        (exceptions.DecodeError("not gzip"), UnavailableError, UnknownOutcomeError),
        (exceptions.LocationParseError("a b"), InvalidError, InvalidError),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_transport_errors_are_typed_by_whether_something_may_have_changed(
    cause: Exception, on_read: type[CmlError], on_write: type[CmlError], wrapped: bool
):
    error = exceptions.MaxRetryError(POOL, "/", cause) if wrapped else cause
    for writes, expected in ((False, on_read), (True, on_write)):
        found = translated(error, Call("https://ml.example.com", "create_job", writes, "the-key"))
        assert type(found) is expected
        assert str(found).startswith("https://ml.example.com ")


class PackageError(Exception):
    """As the package's own exception is when it never got an answer."""

    def __init__(self, status: int | None, reason: str) -> None:
        self.status, self.reason, self.body, self.headers = status, reason, None, None


@pytest.mark.parametrize("status", [0, None])
@pytest.mark.parametrize(
    ("reason", "on_write"),
    [
        ("SSLError\n[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", UnavailableError),
        ("Failed to parse `x` as datetime object", UnknownOutcomeError),
        ("", UnknownOutcomeError),
    ],
)
def test_the_packages_errors_without_a_status_are_typed_too(
    status: int | None, reason: str, on_write: type[CmlError]
):
    error = PackageError(status, reason)
    assert type(translated(error, Call("https://a", "get_job", False))) is UnavailableError
    assert type(translated(error, Call("https://a", "create_job", True))) is on_write


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("?api_key=abc&x=1", "?api_key=***&x=1"),
        ('{"token": "abc"}', '{"token": "***"}'),
        ("HF_TOKEN=hf_abc", "HF_TOKEN=***"),
        ("jwt eyJhbGciOi.eyJzdWIi.c2ln", "jwt ***"),
        ("key 0123456789abcdef0123456789abcdef.0123456789abcdef", "key ***"),
    ],
)
def test_what_looks_like_a_credential_is_not_shown(text: str, shown: str):
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "job 0f3k-9d8a-qwer-1234 of 6f1f2c3e-5a0b-4f8d-9b1a-0c2d3e4f5a6b",
        "docker.example.com/ml-runtime-pbj-workbench-python3.11-standard:2024.05.1-b8",
        "the job kubetune-team-a-support-assistant-abcdef0123456789 is paused",
        "ein-sehr-langer-Name-mit-größeren-Umlauten-und-mehr-als-vierzig-Zeichen",
    ],
)
def test_ids_names_and_images_stay_readable(text: str):
    assert redacted(text) == text


def test_a_message_is_one_short_line():
    assert shortened("a\n b\t c") == "a b c"
    assert shortened("x" * 500) == "x" * 299 + "…"


def test_the_key_is_in_no_message_and_no_repr():
    call = Call("https://ml.example.com", "get_job", False, "short-key")
    assert "short-key" not in repr(call)
    assert "short-key" not in call.message("refuses short-key")


# The gate


def test_the_longest_time_that_was_asked_for_is_kept(gate: Gate, clock: Clock):
    gate.leave("get_job", ThrottledError("slow down", 60.0))
    gate.leave("get_job", ThrottledError("slow down", 5.0))
    gate.leave("get_job", None)
    clock.now += 20
    with pytest.raises(ThrottledError, match="slow down") as caught:
        gate.enter("create_job")
    assert caught.value.retry_after == 40
    clock.now += 40
    gate.enter("create_job")


def test_one_call_looks_whether_the_key_is_good_again(gate: Gate, clock: Clock):
    gate.leave("get_job", CredentialsError("refused", key_refused=True))
    with pytest.raises(CredentialsError, match="refused"):
        gate.enter("get_job")
    clock.now += REFUSAL_SECONDS
    gate.enter("get_job")
    with pytest.raises(CredentialsError, match="refused"):
        gate.enter("get_job")
    gate.leave("get_job", CredentialsError("still refused", key_refused=True))
    clock.now += REFUSAL_SECONDS - 1
    with pytest.raises(CredentialsError, match="still refused"):
        gate.enter("get_job")
    clock.now += 1
    gate.enter("get_job")
    gate.leave("get_job", None)
    gate.enter("get_job")
    gate.enter("get_job")


def test_a_look_that_fails_for_another_reason_tells_nothing_of_the_key(gate: Gate, clock: Clock):
    gate.leave("get_job", CredentialsError("refused", key_refused=True))
    clock.now += REFUSAL_SECONDS
    gate.enter("get_job")
    gate.leave("get_job", UnavailableError("down"))
    # The next one looks, and only that.
    gate.enter("get_job")
    with pytest.raises(CredentialsError):
        gate.enter("get_job")
    gate.leave("get_job", NotFoundError("gone"))
    gate.enter("get_job")


def test_a_refusal_holds_for_its_operation(gate: Gate):
    gate.leave("create_registered_model", CredentialsError("refused", key_refused=True))
    with pytest.raises(CredentialsError, match="refused"):
        gate.enter("create_registered_model")
    gate.enter("get_job")
    gate.leave("list_users_quota", CredentialsError("for admins"))
    gate.enter("list_users_quota")
