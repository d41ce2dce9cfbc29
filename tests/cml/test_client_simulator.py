"""The client of a workspace against the simulator, which checks requests against the contract."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kubetune.clients.cml import (
    CmlClient,
    ConflictError,
    CredentialsError,
    InvalidError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_models import CreateJobRequest, CreateJobRunRequest, JobChange, variables
from kubetune.clients.cml_operations import (
    CREATE_JOB,
    CREATE_JOB_RUN,
    DELETE_JOB,
    GET_JOB,
    GET_JOB_RUN,
    GET_PROJECT,
    LIST_ACCELERATORS,
    LIST_JOBS,
    STOP_JOB_RUN,
    UPDATE_JOB,
)
from kubetune_devcluster.cml.server import Simulator


@pytest.fixture
async def caller(cmlapi_path: Path, simulator: Simulator) -> AsyncIterator[CmlClient]:
    """A client with the simulator's key."""
    client = CmlClient(simulator.url, simulator.api_key)
    yield client
    await client.close()


def job_request(simulator: Simulator, name: str) -> CreateJobRequest:
    simulator.write("train.py", "")
    return CreateJobRequest(
        name=name,
        script="train.py",
        runtime_identifier=simulator.runtime_identifier(),
        environment={"KUBETUNE_RUN_KEY": "k"},
        timeout=3600,
        kill_on_timeout=True,
    )


async def test_a_job_lives_from_creation_to_deletion(caller: CmlClient, simulator: Simulator):
    project = simulator.project.id
    job = await caller.write(CREATE_JOB, project, body=job_request(simulator, "größe"))
    assert (job.name, job.timeout, job.creator.username) == ("größe", "3600", "trainer")
    assert variables(job.environment) == {"KUBETUNE_RUN_KEY": "k"}
    change = JobChange(timeout="60", environment='{"A": "1"}', cpu=2.0)
    await caller.write(UPDATE_JOB, project, job.id, body=change)
    changed = await caller.read(GET_JOB, project, job.id)
    assert (changed.timeout, changed.environment, changed.cpu) == ("60", '{"A": "1"}', 2.0)
    body = CreateJobRunRequest()
    run = await caller.write(CREATE_JOB_RUN, project, job.id, body=body)
    with pytest.raises(ConflictError):
        await caller.write(CREATE_JOB_RUN, project, job.id, body=body)
    assert (await caller.read(GET_JOB_RUN, project, job.id, run.id)).id == run.id
    await caller.write(STOP_JOB_RUN, project, job.id, run.id)
    await caller.write(DELETE_JOB, project, job.id)
    with pytest.raises(NotFoundError):
        await caller.read(GET_JOB, project, job.id)
    with pytest.raises(NotFoundError):
        await caller.write(DELETE_JOB, project, job.id)


async def test_what_the_contract_refuses_is_invalid(caller: CmlClient, simulator: Simulator):
    with pytest.raises(InvalidError):
        await caller.write(
            CREATE_JOB, simulator.project.id, body=CreateJobRequest(name="without a script")
        )
    with pytest.raises(NotFoundError):
        await caller.read(GET_PROJECT, "aaaa-bbbb-cccc-dddd")


async def test_small_pages_are_all_read(caller: CmlClient, simulator: Simulator):
    simulator.behaviour.page_size_limit = 2
    simulator.behaviour.extra_fields = True
    names = [f"job-{number}" for number in range(5)]
    for name in names:
        simulator.add_job(name)
    jobs = await caller.pages(LIST_JOBS, simulator.project.id)
    assert sorted(job.name for job in jobs) == names
    assert simulator.count("list_jobs") == 3


async def test_a_create_that_fails_after_its_effect_is_unknown_and_is_sent_once(
    caller: CmlClient, simulator: Simulator
):
    project = simulator.project.id
    simulator.faults.add("create_job", when="after", status=500)
    simulator.faults.add("create_job", when="after", close=True)
    for name in ("answered", "broken"):
        with pytest.raises(UnknownOutcomeError):
            await caller.write(CREATE_JOB, project, body=job_request(simulator, name))
    jobs = await caller.pages(LIST_JOBS, project)
    assert sorted(job.name for job in jobs) == ["answered", "broken"]
    assert simulator.count("create_job") == 2


async def test_a_throttled_create_has_not_happened(caller: CmlClient, simulator: Simulator):
    simulator.faults.add("create_job", status=429, headers={"Retry-After": "120"})
    request = job_request(simulator, "n")
    for _ in range(2):
        with pytest.raises(ThrottledError):
            await caller.write(CREATE_JOB, simulator.project.id, body=request)
    assert simulator.count("create_job") == 1
    assert simulator.jobs() == []


async def test_a_revoked_key_is_refused_and_a_new_one_works(
    caller: CmlClient, simulator: Simulator
):
    project = simulator.project.id
    await caller.read(GET_PROJECT, project)
    simulator.revoke_key()
    for _ in range(3):
        with pytest.raises(CredentialsError) as caught:
            await caller.read(GET_PROJECT, project)
        assert caught.value.key_refused
        assert simulator.api_key not in str(caught.value)
    assert simulator.count("get_project") == 2
    renewed = CmlClient(simulator.url, simulator.add_key())
    assert (await renewed.read(GET_PROJECT, project)).id == project
    await renewed.close()


async def test_an_old_workspace_has_no_labels_and_says_so(caller: CmlClient, simulator: Simulator):
    assert await caller.pages(LIST_ACCELERATORS)
    simulator.behaviour.no_labels = True
    with pytest.raises(NotFoundError):
        await caller.pages(LIST_ACCELERATORS)


async def test_files_go_there_and_back(caller: CmlClient, simulator: Simulator):
    project, path = simulator.project.id, "kubetune/runs/läuft.bin"
    with pytest.raises(NotFoundError):
        await caller.download(project, path)
    for content in (bytes(range(256)) * 50, b"again"):
        await caller.upload(project, path, content)
        assert await caller.download(project, path) == content
        assert (simulator.files() / path).read_bytes() == content


async def test_a_server_that_comes_back_is_used_again(caller: CmlClient, simulator: Simulator):
    project = simulator.project.id
    await caller.read(GET_PROJECT, project)
    await asyncio.to_thread(simulator.stop)
    with pytest.raises(UnavailableError):
        await caller.write(CREATE_JOB, project, body=job_request(simulator, "n"))
    await asyncio.to_thread(simulator.start)
    assert await caller.write(CREATE_JOB, project, body=job_request(simulator, "n"))
    assert len(simulator.jobs()) == 1
