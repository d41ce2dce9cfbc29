"""The client of a workspace: the real ``cmlapi`` package against servers on good and bad days."""

import asyncio
import logging
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubetune.clients import cml, cml_clients
from kubetune.clients.cml import (
    CmlClient,
    CredentialsError,
    InvalidError,
    NotFoundError,
    PackageMissingError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.cml_errors import REFUSAL_SECONDS, Gate
from kubetune.clients.cml_models import CreateJobRequest, Job, Nothing
from kubetune.clients.cml_operations import (
    CREATE_JOB,
    DELETE_JOB,
    GET_JOB,
    GET_JOB_RUN,
    GET_PROJECT,
    LIST_JOBS,
    LIST_PROJECTS,
    LIST_USERS_QUOTA,
    Listing,
    Operation,
)
from kubetune.clients.egress import OPEN

from tests.cml.workspaces import KEY, PAGE, answering, refusal, serving, talking


@pytest.fixture(autouse=True)
def package(cmlapi_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(cmlapi_path)


async def test_a_call_arrives_as_the_contract_says_and_its_answer_is_read():
    seen: list[tuple[str, Any]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((request.headers["Authorization"], await request.json()))
        return web.json_response(
            {
                "id": "aaaa-bbbb-cccc-dddd",
                "name": "größe",
                "environment": '{"A":"1"}',
                "timeout": "3600",
                "created_at": "2024-05-06T07:08:09.123Z",
                "project": {"name": "p", "slug": "team/p"},
                "of_a_later_version": {"a": 1},
            }
        )

    async with talking(handle) as (client, workspace):
        body = CreateJobRequest(name="größe", environment={"A": "1"})
        job = await client.write(CREATE_JOB, "p/1", body=body)
    assert seen == [(f"Bearer {KEY}", {"name": "größe", "environment": {"A": "1"}})]
    assert workspace.asked == ["POST /api/v2/projects/p%2F1/jobs"]
    assert (job.name, job.environment, job.timeout) == ("größe", '{"A":"1"}', "3600")
    assert job.created_at == datetime(2024, 5, 6, 7, 8, 9, 123000, UTC)
    assert (job.project.slug, job.script) == ("team/p", "")


async def test_a_status_that_the_package_does_not_know_passes():
    async with talking(answering({"id": "r", "status": "ENGINE_DREAMING"})) as (client, _):
        run = await client.read(GET_JOB_RUN, "p", "j", "r")
    assert run.status == "ENGINE_DREAMING"


@pytest.mark.parametrize("suffix", ["", "/", "/api/v2", "/api/v2/"])
async def test_the_address_may_be_any_form_of_the_workspace(suffix: str):
    async with serving(answering({"id": "p"})) as workspace:
        client = CmlClient(workspace.url + suffix, f"{KEY}\n")
        assert client.url == workspace.url
        assert (await client.read(GET_PROJECT, "p")).id == "p"
        await client.close()
    assert workspace.asked == ["GET /api/v2/projects/p"]


@pytest.mark.parametrize("body", ["", "{}"])
async def test_an_answer_without_content_is_enough_where_nothing_is_to_be_said(body: str):
    async with talking(answering(body)) as (client, workspace):
        assert await client.write(DELETE_JOB, "p", "j") == Nothing()
    assert workspace.asked == ["DELETE /api/v2/projects/p/jobs/j"]


# Pages


async def test_all_pages_are_read_with_the_same_options():
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        token = request.rel_url.query.get("page_token", "0")
        following = {"0": "t/1", "t/1": "t 2", "t 2": ""}[token]
        # A page may be empty when the server filters after it cuts.
        items = [] if token == "t/1" else [{"id": token}]
        return web.json_response({"projects": items, "next_page_token": following})

    async with talking(handle) as (client, workspace):
        found = await client.pages(LIST_PROJECTS, search_filter='{"name":"a"}')
    assert [project.id for project in found] == ["0", "t 2"]
    assert len(workspace.asked) == 3
    assert all("page_size=100" in path and "search_filter=" in path for path in workspace.asked)


async def test_a_list_without_items_is_empty():
    async with talking(answering({})) as (client, _):
        assert await client.pages(LIST_JOBS, "p") == []


async def test_a_page_token_that_repeats_is_an_error_and_not_half_a_list():
    page = {"jobs": [{"id": "j"}], "next_page_token": "same"}
    async with talking(answering(page)) as (client, workspace):
        with pytest.raises(UnavailableError, match="no end to the pages of list_jobs"):
            await client.pages(LIST_JOBS, "p")
    assert len(workspace.asked) == 2


# The gate: throttling and refused keys


async def test_after_a_429_nobody_asks_until_the_time_has_passed():
    now = [0.0]
    headers = {"Retry-After": "60"}
    async with talking(answering(refusal(8, "slow down"), 429, headers)) as (client, workspace):
        client._gate = Gate(clock=lambda: now[0])
        with pytest.raises(ThrottledError, match="slow down") as first:
            await client.read(GET_JOB, "p", "j")
        assert first.value.retry_after == 60
        now[0] = 59.0
        calls = (
            client.write(CREATE_JOB, "p", body=CreateJobRequest()),
            client.upload("p", "a", b""),
        )
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, ThrottledError) for error in ended)
        assert [error.retry_after for error in ended if isinstance(error, ThrottledError)] == [1, 1]
        assert len(workspace.asked) == 1
        now[0] = 60.0
        with pytest.raises(ThrottledError):
            await client.read(GET_JOB, "p", "j")
        assert len(workspace.asked) == 2


async def test_a_refused_key_makes_no_storm_and_recovers():
    now, valid = [0.0], [False]

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if valid[0]:
            return web.json_response({"id": "r"})
        return web.json_response(refusal(16, "expired"), status=401)

    # One at a time: calls under way when the first answer comes are not held back.
    async with talking(handle, concurrency=1) as (client, workspace):
        client._gate = Gate(clock=lambda: now[0])
        ended = await asyncio.gather(
            *(client.read(GET_JOB_RUN, "p", "j", str(run)) for run in range(200)),
            return_exceptions=True,
        )
        assert {(type(error), str(error)) for error in ended} == {
            (CredentialsError, f"{workspace.url} refuses the API key: HTTP 401: expired")
        }
        assert len(workspace.asked) == 1
        valid[0], now[0] = True, REFUSAL_SECONDS
        assert await client.read(GET_JOB_RUN, "p", "j", "r")
        assert await client.read(GET_JOB_RUN, "p", "j", "r")


async def test_a_key_that_may_not_do_one_thing_may_do_another():
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "usersquota" in request.path:
            return web.json_response(refusal(7, "for admins"), status=403)
        return web.json_response({"id": "p"})

    async with talking(handle) as (client, workspace):
        for _ in range(2):
            with pytest.raises(CredentialsError, match="does not allow list_users_quota") as caught:
                await client.page(LIST_USERS_QUOTA)
            assert not caught.value.key_refused
        assert (await client.read(GET_PROJECT, "p")).id == "p"
    assert len(workspace.asked) == 3


# Threads, loops and cancellation


async def test_no_more_calls_run_at_once_than_allowed():
    running = most = 0
    full, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await go_on.wait()
        running -= 1
        return web.json_response({"id": "j"})

    async with talking(handle, concurrency=3) as (client, workspace):
        calls = asyncio.gather(*(client.read(GET_JOB, "p", str(job)) for job in range(12)))
        await full.wait()
        go_on.set()
        await calls
    assert len(workspace.asked) == 12
    assert most == 3


async def test_a_cancelled_call_frees_its_place_and_one_in_line_is_never_sent():
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            arrived.set()
            await go_on.wait()
        return web.json_response({"id": "j"})

    async with talking(handle, concurrency=1) as (client, workspace):
        under_way = asyncio.create_task(client.write(CREATE_JOB, "p", body=CreateJobRequest()))
        await arrived.wait()
        in_line = asyncio.create_task(client.write(DELETE_JOB, "p", "j"))
        await asyncio.sleep(0)
        for task in (under_way, in_line):
            task.cancel()
        ended = await asyncio.gather(under_way, in_line, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        go_on.set()
        assert (await client.read(GET_JOB, "p", "j")).id == "j"
    assert workspace.asked == ["POST /api/v2/projects/p/jobs", "GET /api/v2/projects/p/jobs/j"]


def test_a_client_is_bound_to_no_event_loop():
    client = CmlClient("http://127.0.0.1:1", KEY, concurrency=1)

    async def use() -> list[BaseException | Job]:
        calls = (client.read(GET_JOB, "p", str(job)) for job in range(3))
        return await asyncio.gather(*calls, return_exceptions=True)

    for _ in range(2):
        assert all(isinstance(error, UnavailableError) for error in asyncio.run(use()))
    asyncio.run(client.close())


async def test_a_closed_client_opens_anew_and_leaves_no_threads():
    before = set(threading.enumerate())
    async with talking(answering({"id": "j"})) as (client, _):
        await client.read(GET_JOB, "p", "j")
        mine = set(threading.enumerate()) - before
        # None of the pool that the package makes for itself.
        assert {thread.name.rpartition("_")[0] for thread in mine} == {"cml"}
        await client.close()
        await client.close()
        for thread in mine:
            thread.join()
        assert (await client.read(GET_JOB, "p", "j")).id == "j"


async def test_other_peoples_loggers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    # The package touches them once, when its first Configuration is made.
    for name in [name for name in sys.modules if name.partition(".")[0] == "cmlapi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(logging.getLogger("urllib3"), "level", logging.INFO)
    # Other users of the package in this process leave theirs as it makes them.
    monkeypatch.setattr(logging.getLogger("cmlapi"), "handlers", [])
    names = (None, "urllib3")
    before = [
        (logging.getLogger(name).level, logging.getLogger(name).handlers[:]) for name in names
    ]
    async with talking(answering({"id": "j"})) as (client, _):
        await client.read(GET_JOB, "p", "j")
    after = [(logging.getLogger(name).level, logging.getLogger(name).handlers[:]) for name in names]
    assert after == before
    assert logging.getLogger("cmlapi").handlers == []


# Files


async def test_an_upload_goes_to_the_chosen_path():
    received: dict[str, Any] = {}

    async def store(request: web.Request) -> web.StreamResponse:
        for key, part in (await request.post()).items():
            assert isinstance(part, web.FileField)
            received[key] = part.file.read()
        received["project"] = request.match_info["project"]
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/api/v2/projects/{project}/files", store)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = CmlClient(f"http://127.0.0.1:{runner.addresses[0][1]}", KEY)
    content = bytes(range(256))
    await client.upload("p", "kubetune/läufe/plan.json", content)
    await client.upload("p", "./empty", b"")
    await client.close()
    await runner.cleanup()
    assert received == {"kubetune/läufe/plan.json": content, "empty": b"", "project": "p"}


async def test_an_upload_that_ends_at_a_log_in_page_is_not_taken_for_done():
    async with talking(answering(PAGE)) as (client, _):
        with pytest.raises(UnknownOutcomeError, match="web page"):
            await client.upload("p", "a", b"1")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../../b", ".", ".."])
async def test_a_path_outside_the_project_is_refused(path: str):
    async with talking(answering({})) as (client, workspace):
        with pytest.raises(InvalidError, match="must be relative"):
            await client.upload("p", path, b"")
        with pytest.raises(InvalidError, match="must be relative"):
            await client.download("p", path)
    assert workspace.asked == []


async def test_a_download_is_the_files_bytes(monkeypatch: pytest.MonkeyPatch):
    content = bytes(range(256)) * 100

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "gone" in request.path:
            return web.json_response(refusal(5, "no such file"), status=404)
        return web.Response(body=content)

    async with talking(handle, concurrency=1) as (client, workspace):
        for _ in range(3):
            assert await client.download("p", "kubetune/out.bin") == content
        with pytest.raises(NotFoundError, match="no such file"):
            await client.download("p", "gone.json")
        monkeypatch.setattr(cml, "MAX_DOWNLOAD_BYTES", 1000)
        with pytest.raises(InvalidError, match=r"kubetune/out.bin is refused: .* at most 1,000"):
            await client.download("p", "kubetune/out.bin")
        monkeypatch.setattr(cml, "MAX_DOWNLOAD_BYTES", len(content))
        assert await client.download("p", "kubetune/out.bin") == content
    assert workspace.asked[0] == "POST /api/v2/projects/p/files/kubetune%2Fout.bin:download"


# The package


async def test_what_the_package_lacks_is_told_from_what_fails():
    async with talking(answering({"id": "p"})) as (client, workspace):
        assert await client.supports(GET_JOB)
        later = Operation("list_workload_executions", (), Nothing)
        assert not await client.supports(later)
        install = f"pip install {workspace.url}/api/v2/python.tar.gz"
        with pytest.raises(InvalidError, match="has no list_workload_executions") as caught:
            await client.read(later)
        assert install in str(caught.value)
        with pytest.raises(InvalidError, match="refuses get_job"):
            await client.read(Operation("get_job", ("project_id",), Job), "p")
        with pytest.raises(InvalidError, match="has no jobs in list_projects"):
            await client.pages(Listing("list_projects", (), Job, items="jobs"))
        for call in (
            client.read(GET_JOB, "p"),
            client.write(GET_JOB, "p", "j", body=CreateJobRequest()),
            client.write(CREATE_JOB, "p"),
            client.pages(LIST_JOBS, "p", sort="+name"),
        ):
            with pytest.raises(TypeError, match="takes"):
                await call


async def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
):
    client = CmlClient("https://ml.example.com/", KEY)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "cmlapi", None)
        for call in (client.read(GET_JOB, "p", "j"), client.supports(GET_JOB)):
            with pytest.raises(PackageMissingError) as caught:
                await call
            assert "ml.example.com/api/v2/python.tar.gz" in str(caught.value)
    assert await client.supports(GET_JOB)
    await client.close()


async def test_one_client_per_workspace_and_credential(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cml_clients, "MAX_CLIENTS", 2)
    clients = CmlClients(egress=OPEN)
    async with serving(answering({"id": "p"})) as workspace:
        first = clients.get(workspace.url, KEY)
        assert clients.get(workspace.url, KEY) is first
        assert clients.get(workspace.url, "another") is not first
        assert clients.get(workspace.url, KEY) is first
        clients.get(workspace.url, KEY, "pem")
        # The one that was used last is kept; what is closed still works for who holds it.
        assert clients.get(workspace.url, KEY) is first
        clients.get("https://one.example.com", KEY)
        clients.get("https://two.example.com", KEY)
        assert (await first.read(GET_PROJECT, "p")).id == "p"
        await first.close()
        await clients.close()
    key = CmlClients.key(workspace.url, KEY)
    assert key == CmlClients.key(workspace.url, KEY) != CmlClients.key(workspace.url, KEY, "pem")
    assert KEY not in key
