"""How the MLflow client behaves towards a server that is slow, broken, foreign or strict."""

import asyncio
import base64
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubetune.clients.egress import OPEN
from kubetune.tracking.base import TrackingError
from kubetune.tracking.mlflow import MlflowTracker
from kubetune.tracking.pool import TrackerPool
from kubetune.tracking.rest import Credentials, MlflowError, RestClient

from tests.believing import anybodys

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncGenerator[str]:
    """Address of an HTTP server on loopback that answers everything with ``handler``."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(uri: str, **given: object) -> AsyncGenerator[RestClient]:
    found = RestClient(uri, **given)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        await found.close()


def encoded(**values: str) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


@pytest.mark.parametrize(
    ("secret", "header"),
    [
        (
            encoded(MLFLOW_TRACKING_USERNAME="me", MLFLOW_TRACKING_PASSWORD="s3cret\n"),
            "Basic " + base64.b64encode(b"me:s3cret").decode(),
        ),
        (encoded(MLFLOW_TRACKING_TOKEN="t0ken", other="x"), "Bearer t0ken"),
    ],
)
async def test_credentials_of_a_secret_are_sent_and_never_shown(
    secret: dict[str, str], header: str
):
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({})

    credentials = Credentials.from_secret(secret)
    assert "s3cret" not in repr(credentials)
    assert "t0ken" not in repr(credentials)
    async with server(answer) as uri, client(uri, credentials=credentials) as rest:
        await rest.call("GET", "runs/get")
    assert seen == [header]


@pytest.mark.parametrize("secret", [{}, encoded(MLFLOW_TRACKING_USERNAME="me")])
def test_a_secret_without_credentials_names_the_keys(secret: dict[str, str]):
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        Credentials.from_secret(secret)


@pytest.mark.parametrize(
    ("status", "code", "credentials", "missing"),
    [
        (401, "UNAUTHENTICATED", True, False),
        (403, "PERMISSION_DENIED", True, False),
        (404, "RESOURCE_DOES_NOT_EXIST", False, True),
        (404, "ENDPOINT_NOT_FOUND", False, False),
        (400, "INVALID_PARAMETER_VALUE", False, False),
        (400, "INVALID_STATE", False, False),
        (409, "RESOURCE_CONFLICT", False, False),
        (429, "REQUEST_LIMIT_EXCEEDED", False, False),
        (500, "INTERNAL_ERROR", False, False),
        (503, "TEMPORARILY_UNAVAILABLE", False, False),
    ],
)
async def test_errors_say_what_is_wrong(status: int, code: str, credentials: bool, missing: bool):
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({"error_code": code, "message": "because"}, status=status)

    async with server(answer) as uri, client(uri) as rest:
        with pytest.raises(MlflowError, match="because") as caught:
            await rest.call("GET", "runs/get")
    assert (caught.value.credentials, caught.value.missing) == (credentials, missing)
    assert caught.value.code == code
    assert uri in str(caught.value)
    assert caught.value.refused is (status in (400, 404))


@pytest.mark.parametrize("status", [400, 404])
async def test_what_stands_before_mlflow_refuses_nothing_for_good(status: int):
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text="<html>no such host</html>")

    async with server(answer) as uri, client(uri) as rest:
        with pytest.raises(MlflowError) as caught:
            await rest.call("POST", "model-versions/create", {})
    assert not caught.value.refused


async def test_searches_are_tried_twice_and_writes_once():
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.path.rpartition("/")[2])
        return web.Response(status=503, text="starting")

    async with server(answer) as uri, client(uri) as rest:
        for endpoint in ("runs/search", "model-versions/create"):
            with pytest.raises(TrackingError, match=r"HTTP 503 \(text/plain\)$"):
                await rest.call("POST", endpoint, {})
    assert seen == ["search", "search", "create"]


async def test_the_second_try_counts():
    answers = [web.Response(status=502), web.json_response({"runs": []})]

    async def answer(request: web.BaseRequest) -> web.Response:
        return answers.pop(0)

    async with server(answer) as uri, client(uri) as rest:
        assert await rest.call("POST", "runs/search", {}) == {"runs": []}


async def test_a_server_that_never_answers():
    never = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        await never.wait()
        return web.Response()

    async with server(answer) as uri, client(uri, timeout_seconds=0.2) as rest:
        with pytest.raises(TrackingError, match=r"did not answer within 0\.2 s"):
            await rest.call("POST", "runs/search", {})
        never.set()


async def test_nobody_listens():
    with socket.socket() as taken:
        # Bound but not listening: the port is nobody else's and refuses.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with client(f"http://127.0.0.1:{port}") as rest:
            with pytest.raises(TrackingError, match="can't be reached"):
                await rest.call("GET", "runs/get")


async def test_a_log_in_page_is_not_followed():
    async def answer(request: web.BaseRequest) -> web.Response:
        raise web.HTTPFound("https://sso.example/login")

    async with server(answer) as uri, client(uri) as rest:
        with pytest.raises(TrackingError, match=r"redirects to https://sso\.example; give"):
            await rest.call("POST", "runs/search", {})


async def test_a_server_that_is_no_mlflow():
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>hello</html>")

    async with server(answer) as uri, client(uri) as rest:
        with pytest.raises(TrackingError, match="does not answer as an MLflow server"):
            await rest.call("GET", "runs/get")


async def test_a_wrong_host_name_is_not_blamed_on_the_credentials():
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=403, text="Invalid Host header - possible DNS rebinding")

    async with server(answer) as uri, client(uri) as rest:
        with pytest.raises(TrackingError, match="--allowed-hosts") as caught:
            await rest.call("GET", "runs/get")
    assert not caught.value.credentials


async def test_a_bundle_without_certificates():
    async with client("https://127.0.0.1:1", ca_pem="not a certificate") as rest:
        with pytest.raises(TrackingError, match="CA bundle"):
            await rest.call("GET", "runs/get")


async def test_all_pages_are_read():
    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path.endswith("get-by-name"):
            return web.json_response({"experiment": {"experiment_id": "7"}})
        body = await request.json()
        page = int(body.get("page_token", "0"))
        run = {
            "info": {"run_id": f"r{page}", "experiment_id": "7", "status": "RUNNING"},
            "data": {"metrics": [{"key": "loss", "value": "NaN", "timestamp": "12"}]},
        }
        more = {"next_page_token": str(page + 1)} if page < 2 else {}
        return web.json_response({"runs": [run], **more})

    async with server(answer) as uri:
        tracker = MlflowTracker(uri)
        runs = await tracker.running("install", ["team"])
        assert [run.run_id for run in runs] == ["r0", "r1", "r2"]
        # A NaN must not make an unchanged run look changed.
        assert runs == await tracker.running("install", ["team"])
        await tracker.close()


async def test_the_pool_shares_by_server_and_credentials():
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({})

    pool = TrackerPool(1.0, OPEN)
    async with server(answer) as uri:
        tracker = pool.get(uri)
        assert pool.get(uri) is tracker
        assert pool.get(uri, Credentials(token="a")) is not tracker
        assert pool.get(uri, ca_pem="x") is not tracker
        assert await tracker.find_identical("name", "digest", anybodys) is None
        for number in range(100):
            pool.get(f"{uri}/{number}")
        assert pool.get(uri) is not tracker
        # Whoever still holds a tracker that was closed may use it.
        assert await tracker.find_identical("name", "digest", anybodys) is None
        await tracker.close()
        await pool.close()
    assert "s3cret" not in TrackerPool.key(uri, Credentials(token="s3cret"))
