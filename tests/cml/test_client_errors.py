"""What the client of a workspace makes of answers and connections that go wrong."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubetune.clients.cml import (
    CmlClient,
    CmlError,
    ConflictError,
    CredentialsError,
    InvalidError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_models import CreateJobRequest, CreateProjectRequest
from kubetune.clients.cml_operations import (
    CREATE_JOB,
    CREATE_PROJECT,
    DELETE_JOB,
    GET_JOB,
    GET_PROJECT,
    LIST_JOBS,
)
from kubetune_devcluster.control_plane import pki

from tests.cml.workspaces import KEY, PAGE, answering, refusal, serving, talking


@pytest.fixture(autouse=True)
def package(cmlapi_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(cmlapi_path)


@pytest.mark.parametrize(
    ("status", "body", "on_read", "on_write"),
    [
        (401, refusal(16, "expired"), CredentialsError, CredentialsError),
        (401, PAGE, CredentialsError, CredentialsError),
        (403, refusal(7, "not yours"), CredentialsError, CredentialsError),
        (400, refusal(16, "no key"), CredentialsError, CredentialsError),
        (404, refusal(5, "no such job"), NotFoundError, NotFoundError),
        (404, {"message": "Not Found"}, NotFoundError, NotFoundError),
        (404, PAGE, UnavailableError, UnavailableError),
        (404, "default backend - 404", UnavailableError, UnavailableError),
        (409, refusal(6, "exists"), ConflictError, ConflictError),
        (400, refusal(9, "one is active"), ConflictError, ConflictError),
        (400, refusal(3, "p already has a model with that name"), ConflictError, ConflictError),
        (500, "p already has a model with that name", ConflictError, ConflictError),
        (400, refusal(3, "cpu must be positive"), InvalidError, InvalidError),
        (422, "", InvalidError, InvalidError),
        (429, "", ThrottledError, ThrottledError),
        (500, refusal(13, "internal"), UnavailableError, UnknownOutcomeError),
        (500, "", UnavailableError, UnknownOutcomeError),
        (502, PAGE, UnavailableError, UnknownOutcomeError),
        (503, PAGE, UnavailableError, UnknownOutcomeError),
        (504, "[1]", UnavailableError, UnknownOutcomeError),
        (408, "", UnavailableError, UnknownOutcomeError),
        # What isn't the API at all: a log-in page, an object of another kind, a strange date.
        (200, PAGE, UnavailableError, UnknownOutcomeError),
        (200, [], UnavailableError, UnknownOutcomeError),
        (200, {"created_at": "yesterday-ish"}, UnavailableError, UnknownOutcomeError),
    ],
)
async def test_an_answer_that_is_an_error_is_typed_by_what_to_do_about_it(
    status: int, body: Any, on_read: type[CmlError], on_write: type[CmlError]
):
    # Retry-After makes urllib3 repeat a request unless it is told not to.
    handler = answering(body, status, {"Retry-After": "0"})
    async with talking(handler) as (client, workspace):
        with pytest.raises(CmlError) as reading:
            await client.read(GET_JOB, "p", "j")
        with pytest.raises(CmlError) as writing:
            await client.write(CREATE_JOB, "p", body=CreateJobRequest(name="n"))
    assert (type(reading.value), type(writing.value)) == (on_read, on_write)
    assert len(workspace.asked) == 2
    for message in (str(reading.value), str(writing.value)):
        assert message.startswith(workspace.url)
        assert len(message) <= 300
        assert "<" not in message


async def test_the_message_is_the_workspaces_own_and_short():
    async with talking(answering(refusal(3, "cpu must be positive"), 400)) as (client, workspace):
        with pytest.raises(InvalidError) as caught:
            await client.write(CREATE_JOB, "p", body=CreateJobRequest())
    expected = f"{workspace.url} answered create_job with HTTP 400: cpu must be positive"
    assert str(caught.value) == expected
    async with talking(answering(PAGE, 502)) as (client, _):
        with pytest.raises(UnavailableError, match=r"HTTP 502 \(text/html\)$"):
            await client.read(GET_JOB, "p", "j")
    async with talking(answering(refusal(3, "x " * 2000), 400)) as (client, _):
        with pytest.raises(InvalidError) as caught:
            await client.read(GET_JOB, "p", "j")
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "echo",
    [
        f"the key {KEY} is not valid",
        f"Authorization: Bearer {KEY}",
        f'{{"api_key": "{KEY}"}}',
        "token=s3cret-0f-another-kind",
        "an older key deadbeefdeadbeefdeadbeefdeadbeef.cafe",
    ],
)
async def test_a_key_in_an_answer_is_not_repeated(echo: str):
    async with talking(answering(refusal(3, echo), 400)) as (client, _):
        with pytest.raises(InvalidError) as caught:
            await client.read(GET_JOB, "p", "j")
        shown = f"{caught.value} {caught.value!r} {client!r} {caught.value.__cause__!r}"
    for secret in (KEY, "s3cret", "deadbeef", "cafe"):
        assert secret not in shown


async def test_an_empty_answer_is_nothing_that_was_read():
    async with talking(answering("")) as (client, _):
        with pytest.raises(UnavailableError, match="the answer is empty"):
            await client.pages(LIST_JOBS, "p")


async def test_a_page_that_is_not_utf8_is_no_crash():
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=502, body="<h1>Übel</h1>".encode("latin-1"))

    async with talking(handle) as (client, _):
        with pytest.raises(UnavailableError):
            await client.read(GET_JOB, "p", "j")
        with pytest.raises(UnknownOutcomeError):
            await client.write(DELETE_JOB, "p", "j")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int):
    handler = answering("", status, {"Location": "https://login.example.com/?token=t0p"})
    async with talking(handler) as (client, workspace):
        with pytest.raises(UnavailableError, match=r"redirects get_job to https://login") as caught:
            await client.read(GET_JOB, "p", "j")
        with pytest.raises(UnavailableError, match="redirects create_job"):
            await client.write(CREATE_JOB, "p", body=CreateJobRequest())
    assert "t0p" not in str(caught.value)
    assert len(workspace.asked) == 2


# Errors of the way there


async def test_a_lost_answer_of_a_write_is_unknown_and_nothing_is_sent_twice():
    async def reset(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with talking(reset) as (client, workspace):
        with pytest.raises(UnavailableError, match="broke the connection during get_job"):
            await client.read(GET_JOB, "p", "j")
        with pytest.raises(UnknownOutcomeError, match="may have happened"):
            await client.write(CREATE_JOB, "p", body=CreateJobRequest())
        with pytest.raises(UnknownOutcomeError):
            await client.upload("p", "a.py", b"1")
    assert len(workspace.asked) == 3


async def test_a_server_that_hangs_costs_the_time_limit_and_nothing_is_sent_twice():
    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        return await asyncio.Future[web.StreamResponse]()

    async with talking(hang, timeouts=(1, 1)) as (client, workspace):
        ended = await asyncio.gather(
            client.read(GET_JOB, "p", "j"),
            client.write(CREATE_JOB, "p", body=CreateJobRequest()),
            client.download("p", "a"),
            return_exceptions=True,
        )
    assert [type(error) for error in ended] == [
        UnavailableError,
        UnknownOutcomeError,
        UnavailableError,
    ]
    assert "did not answer get_job in time" in str(ended[0])
    assert len(workspace.asked) == 3


async def test_an_answer_that_breaks_off_is_lost():
    async def torn(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"id": "j"')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with talking(torn) as (client, workspace):
        with pytest.raises(UnavailableError):
            await client.read(GET_JOB, "p", "j")
        with pytest.raises(UnknownOutcomeError):
            await client.write(CREATE_JOB, "p", body=CreateJobRequest())
        with pytest.raises(UnavailableError):
            await client.download("p", "a")
    assert len(workspace.asked) == 3


async def test_a_port_where_nobody_listens_has_changed_nothing():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        client = CmlClient(f"http://127.0.0.1:{holder.getsockname()[1]}", KEY)
        with pytest.raises(UnavailableError, match=r"can't be reached: .*refused"):
            await client.write(CREATE_JOB, "p", body=CreateJobRequest())
    await client.close()


async def test_a_private_authority_is_trusted_only_when_it_is_given(tmp_path: Path):
    pki.ensure(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "serving.crt", tmp_path / "serving.key")
    authority = (tmp_path / "ca.crt").read_text()
    other = (tmp_path / "etcd-ca.crt").read_text()
    async with serving(answering({"id": "p"}), tls) as workspace:
        for untrusted in (None, other):
            client = CmlClient(workspace.url, KEY, untrusted)
            with pytest.raises(UnavailableError, match=r"can't be trusted: .*CA bundle"):
                await client.write(CREATE_PROJECT, body=CreateProjectRequest())
            await client.close()
        client = CmlClient(workspace.url, KEY, authority)
        assert (await client.read(GET_PROJECT, "p")).id == "p"
        await client.close()
    assert workspace.asked == ["GET /api/v2/projects/p"]


async def test_a_server_without_tls_at_an_https_address_has_changed_nothing():
    async with serving(answering({})) as workspace:
        client = CmlClient(workspace.url.replace("http:", "https:"), KEY)
        with pytest.raises(UnavailableError):
            await client.write(CREATE_JOB, "p", body=CreateJobRequest())
        await client.close()
    assert workspace.asked == []


@pytest.mark.parametrize(
    ("url", "key", "ca_pem", "error", "message"),
    [
        ("workspace.example.com", KEY, None, InvalidError, "https://<host>"),
        ("https://", KEY, None, InvalidError, "https://<host>"),
        ("https://a b", KEY, None, InvalidError, "https://<host>"),
        ("https://me:s3cret@a", KEY, None, InvalidError, "https://<host>"),
        ("https://a/x?y=", KEY, None, InvalidError, "https://<host>"),
        ("https://a/x#", KEY, None, InvalidError, "https://<host>"),
        ("https://a/../x", KEY, None, InvalidError, "https://<host>"),
        ("https://example.com", KEY, "no pem", InvalidError, "CA bundle"),
        ("https://example.com", " \n", None, CredentialsError, "API key"),
        ("https://example.com", f"{KEY}\n{KEY}", None, CredentialsError, "API key"),
        ("https://example.com", "schlüssel", None, CredentialsError, "API key"),
    ],
)
async def test_what_can_not_work_is_said_before_anything_is_sent(
    url: str, key: str, ca_pem: str | None, error: type[CmlError], message: str
):
    client = CmlClient(url, key, ca_pem)
    with pytest.raises(error, match=message) as caught:
        await client.read(GET_PROJECT, "p")
    assert KEY not in str(caught.value)
    await client.close()
