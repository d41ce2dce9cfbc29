"""The simulator answers and refuses as a workspace does, seen through the generated client."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import urllib3
from kubetune_devcluster.cml.server import ManualClock, Simulator


def job_body(simulator: Simulator, **fields: Any) -> dict[str, Any]:
    """A job that is accepted."""
    simulator.write("train.py", "")
    runtime = simulator.runtime_identifier()
    return {"name": "a job", "script": "train.py", "runtime_identifier": runtime, **fields}


def refused(call: Callable[[], Any], status: int, code: int) -> str:
    """The message of an answer that must have this status and gRPC code."""
    from cmlapi.rest import ApiException  # pyright: ignore[reportMissingImports]

    with pytest.raises(ApiException) as caught:
        call()
    body = json.loads(caught.value.body)
    assert (caught.value.status, body["code"]) == (status, code), body
    assert body["error"] == body["message"]
    assert body["details"] == []
    return body["message"]


# Keys


def test_only_known_keys_count(client: Any, simulator: Simulator) -> None:
    client.list_projects()
    simulator.revoke_key()
    message = refused(client.list_projects, 401, 16)
    assert simulator.api_key not in message
    client.api_client.set_default_header("authorization", f"Bearer {simulator.add_key()}")
    client.list_projects()


def test_health_needs_no_key(simulator: Simulator) -> None:
    with urllib.request.urlopen(f"{simulator.url}/healthz", timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/api/v2/nothing", "GET", 404), ("/api/v2/runtimes", "DELETE", 501)],
)
def test_what_the_contract_lacks_is_not_served(
    simulator: Simulator, path: str, method: str, status: int
) -> None:
    request = urllib.request.Request(simulator.url + path, method=method)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == status
    caught.value.close()


# Projects and files


def test_projects_are_made_found_and_deleted(client: Any, simulator: Simulator) -> None:
    made = client.create_project({"name": "größe 例", "environment": {"HF_TOKEN": "t"}})
    assert len(made.id) == 19
    assert json.loads(made.environment) == {"HF_TOKEN": "t"}
    assert client.get_project(made.id).name == "größe 例"
    refused(lambda: client.create_project({"name": "größe 例"}), 409, 6)
    client.delete_project(made.id)
    refused(lambda: client.get_project(made.id), 404, 5)
    refused(lambda: client.list_jobs(made.id), 404, 5)


def test_files_are_uploaded_listed_downloaded_and_deleted(
    client: Any, simulator: Simulator, tmp_path: Path
) -> None:
    project = simulator.project.id
    (tmp_path / "run ü.py").write_text("print()")
    client.upload_file(project, file=str(tmp_path / "run ü.py"))
    # With another key than `file` the key is the path.
    fields = {"deep/down/plan.json": ("plan.json", b"{}")}
    key = {"authorization": f"Bearer {simulator.api_key}"}
    answer = urllib3.request(
        "POST", f"{simulator.url}/api/v2/projects/{project}/files", fields=fields, headers=key
    )
    assert answer.status == 200, answer.data
    listed = {file.path: file.is_dir for file in client.list_project_files(project, "").files}
    assert listed == {"run ü.py": False, "deep": True}
    assert [f.path for f in client.list_project_files(project, "deep/down").files] == [
        "deep/down/plan.json"
    ]
    answer = client.download_project_file(project, "deep/down/plan.json", _preload_content=False)
    assert answer.data == b"{}"
    client.delete_project_file(project, "deep")
    refused(lambda: client.list_project_files(project, "deep"), 404, 5)
    refused(lambda: client.download_project_file(project, "../../mlflow.db"), 400, 3)


# Jobs


def test_a_job_comes_back_as_the_real_api_words_it(client: Any, simulator: Simulator) -> None:
    body = job_body(simulator, environment={"A": "ü"}, timeout=3600, kill_on_timeout=True)
    made = client.create_job(body, simulator.project.id)
    found = client.get_job(simulator.project.id, made.id)
    assert json.loads(found.environment) == {"A": "ü"}
    assert found.timeout == "3600"
    assert (found.cpu, found.memory, found.nvidia_gpu, found.type) == (1.0, 1.0, 0, "manual")
    assert found.created_at.tzinfo is not None


def test_names_are_no_keys_unless_switched_on(client: Any, simulator: Simulator) -> None:
    project, body = simulator.project.id, job_body(simulator)
    assert client.create_job(body, project).id != client.create_job(body, project).id
    simulator.behaviour.unique_job_names = True
    refused(lambda: client.create_job(body, project), 409, 6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": ""}, "name is required"),
        ({"script": None}, "script is required"),
        ({"script": "nothing.py"}, "nothing.py does not exist"),
        ({"script": "../../x.py"}, "outside"),
        ({"runtime_identifier": "none"}, "not a registered runtime"),
        ({"runtime_addon_identifiers": ["none"]}, "not available"),
        ({"description": "x"}, 'unknown field "description"'),
        ({"cpu": "2"}, "cpu: expected a number"),
        ({"cpu": 0}, "cpu must be more than 0"),
        ({"nvidia_gpu": 1.5}, "whole number"),
        ({"nvidia_gpu": 5}, "more than the 4"),
        ({"nvidia_gpu": 1, "accelerator_label_id": "99"}, "not a known label"),
        ({"accelerator_label_id": "a100"}, "a number or its text"),
        ({"environment": {"A": 1}}, "environment.A: expected text"),
        ({"environment": {"A=B": "1"}}, "no environment variable"),
        ({"environment": '{"A": "1"}'}, "environment: expected an object"),
        ({"environment": {"A": "x" * 2**20}}, "more than 1048576"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": 2**31}, "32-bit"),
        ({"schedule": "* * * * *", "parent_job_id": "x"}, "schedule or a parent"),
        ({"parent_job_id": "x"}, "job x not found"),
    ],
)
def test_jobs_that_can_not_be_are_refused(
    client: Any, simulator: Simulator, fields: dict[str, Any], says: str
) -> None:
    from cmlapi.rest import ApiException  # pyright: ignore[reportMissingImports]

    with pytest.raises(ApiException) as caught:
        client.create_job(job_body(simulator, **fields), simulator.project.id)
    assert caught.value.status in (400, 404)
    assert says in json.loads(caught.value.body)["message"]
    assert simulator.jobs() == []


def test_a_disabled_runtime_is_refused(client: Any, simulator: Simulator) -> None:
    runtimes = client.list_runtimes(page_size=50).runtimes
    newest = next(one for one in runtimes if one.status == "DISABLED")
    body = job_body(simulator, runtime_identifier=newest.image_identifier)
    assert "disabled" in refused(lambda: client.create_job(body, simulator.project.id), 400, 3)


def test_a_label_may_be_a_number(client: Any, simulator: Simulator) -> None:
    body = job_body(simulator, nvidia_gpu=4, accelerator_label_id=7)
    assert client.create_job(body, simulator.project.id).accelerator_label_id == "7"


def test_a_job_is_changed_by_the_fields_given(client: Any, simulator: Simulator) -> None:
    project = simulator.project.id
    job = client.create_job(job_body(simulator, environment={"A": "1"}), project)
    changed = client.update_job({"environment": '{"B": "2"}', "memory": 8}, project, job.id)
    assert (json.loads(changed.environment), changed.memory) == ({"B": "2"}, 8.0)
    assert changed.name == "a job"
    refused(lambda: client.update_job({"environment": {"B": "2"}}, project, job.id), 400, 3)
    refused(lambda: client.update_job({"environment": "[]"}, project, job.id), 400, 3)
    refused(lambda: client.update_job({"id": "x"}, project, job.id), 400, 3)


def test_a_deleted_job_is_gone(client: Any, simulator: Simulator) -> None:
    project, job = simulator.project.id, simulator.add_job("a")
    client.delete_job(project, job.id)
    refused(lambda: client.get_job(project, job.id), 404, 5)
    refused(lambda: client.delete_job(project, job.id), 404, 5)
    by_hand = simulator.add_job("b")
    simulator.delete_job_by_hand(by_hand.id)
    refused(lambda: client.get_job(project, by_hand.id), 404, 5)
    assert [job.name for job in simulator.all_jobs()] == ["a", "b"]


# Listings


def test_pages(client: Any, simulator: Simulator) -> None:
    simulator.behaviour.page_size_limit = 2
    for n in range(3):
        simulator.add_job(f"job {n}")
    project = simulator.project.id
    first = client.list_jobs(project, page_size=100, sort="+name")
    assert [job.name for job in first.jobs] == ["job 0", "job 1"]
    token = first.next_page_token
    second = client.list_jobs(project, page_size=100, sort="+name", page_token=token)
    assert [job.name for job in second.jobs] == ["job 2"]
    assert second.next_page_token == ""
    refused(lambda: client.list_jobs(project, page_token="x"), 400, 3)


@pytest.mark.parametrize(
    ("name_filter", "expected"),
    [("substring", {"base", "A base job"}), ("exact", {"base"}),
     ("ignored", {"base", "A base job", "x"})],
)  # fmt: skip
def test_filters(client: Any, simulator: Simulator, name_filter: Any, expected: set[str]) -> None:
    simulator.behaviour.name_filter = name_filter
    for name in ("base", "A base job", "x"):
        simulator.add_job(name)
    found = client.list_jobs(simulator.project.id, search_filter='{"name": "base"}')
    assert {job.name for job in found.jobs} == expected
    assert {job.name for job in client.list_all_jobs(search_filter='{"name": "base"}').jobs} == (
        expected
    )


@pytest.mark.parametrize("written", ["name", "[]", '{"nothing": "x"}'])
def test_filters_that_mean_nothing_are_refused(
    client: Any, simulator: Simulator, written: str
) -> None:
    project = simulator.project.id
    refused(lambda: client.list_jobs(project, search_filter=written), 400, 3)


def test_new_objects_may_show_late(client: Any, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviour.visible_after = 30
    project, job = simulator.project.id, simulator.add_job("late")
    run = simulator.start_run(job.id)
    assert client.list_jobs(project).jobs == []
    assert client.list_job_runs(project, job.id).job_runs == []
    assert client.get_job(project, job.id).name == "late"
    clock.advance(30)
    assert [found.id for found in client.list_jobs(project).jobs] == [job.id]
    assert [found.id for found in client.list_job_runs(project, job.id).job_runs] == [run.id]


def test_what_a_workspace_offers(client: Any, simulator: Simulator) -> None:
    chosen = client.list_runtimes(
        search_filter=json.dumps({"editor": "PBJ Workbench", "edition": "Nvidia GPU"})
    ).runtimes
    assert {one.status for one in chosen} == {"ENABLED", "DISABLED", "DEPRECATED"}
    assert [addon.status for addon in client.list_runtime_addons().runtime_addons] == ["AVAILABLE"]
    (label,) = client.list_all_accelerator_node_labels().accelerator_node_label
    assert (label.label_value, label.max_gpu_per_workload) == ("nvidia-a100", "4")
    simulator.start_run(simulator.add_job("a", cpu=2, memory=4, nvidia_gpu=1).id)
    (quota,) = client.list_users_quota().user_quota
    assert (quota.quota_usage.cpu, quota.quota_usage.nvidia_gpu) == ("2", "1")
    simulator.behaviour.no_labels = True
    refused(client.list_all_accelerator_node_labels, 404, 5)


# Bad days


def test_fields_of_a_later_version(client: Any, simulator: Simulator) -> None:
    simulator.behaviour.extra_fields = True
    simulator.add_job("a")
    assert [job.name for job in client.list_jobs(simulator.project.id).jobs] == ["a"]
    raw = client.list_jobs(simulator.project.id, _preload_content=False)
    assert raw.data.count(b"field_of_a_later_version") == 2


@pytest.mark.parametrize(("where", "in_list", "in_get"), [("lists", None, "{}"),
                                                          ("always", None, None)])  # fmt: skip
def test_an_environment_that_is_left_out(
    client: Any, simulator: Simulator, where: Any, in_list: str | None, in_get: str | None
) -> None:
    simulator.behaviour.omit_environment = where
    project, job = simulator.project.id, simulator.add_job("a")
    assert client.list_jobs(project).jobs[0].environment == in_list
    assert client.get_job(project, job.id).environment == in_get


def test_errors_as_html(client: Any, simulator: Simulator) -> None:
    from cmlapi.rest import ApiException  # pyright: ignore[reportMissingImports]

    simulator.behaviour.html_errors = True
    with pytest.raises(ApiException) as caught:
        client.get_project("x")
    assert caught.value.status == 404
    assert caught.value.body.startswith("<html>")


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_a_create_that_answers_500(client: Any, simulator: Simulator, when: Any, jobs: int) -> None:
    fault = simulator.faults.add("create_job", when=when)
    body = job_body(simulator)
    refused(lambda: client.create_job(body, simulator.project.id), 500, 13)
    assert len(simulator.jobs()) == jobs
    assert fault.hits == 1
    client.create_job(body, simulator.project.id)
    assert [(r.status, r.fault) for r in simulator.requests] == [(500, True), (200, False)]


def test_throttling_says_when_to_come_back(client: Any, simulator: Simulator) -> None:
    from cmlapi.rest import ApiException  # pyright: ignore[reportMissingImports]

    # A POST: after a GET the client's HTTP library itself waits that long and asks again.
    simulator.faults.add("*", times=2, status=429, headers={"Retry-After": "7"})
    for _ in range(2):
        with pytest.raises(ApiException) as caught:
            client.create_project({"name": "a"})
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "7")
    client.create_project({"name": "a"})


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_a_connection_that_is_closed(
    client: Any, simulator: Simulator, when: Any, jobs: int
) -> None:
    simulator.faults.add("create_job", when=when, close=True)
    body = job_body(simulator)
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.create_job(body, simulator.project.id)
    assert len(simulator.jobs()) == jobs
    assert [request.status for request in simulator.requests] == [0]


def test_an_answer_that_comes_too_late(client: Any, simulator: Simulator) -> None:
    simulator.faults.add("create_job", when="after", hang=3600)
    body = job_body(simulator)
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.create_job(body, simulator.project.id, _request_timeout=(5, 1))
    assert [job.name for job in simulator.jobs()] == ["a job"]


def test_a_fault_of_an_unknown_operation_is_a_mistake(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="createJob"):
        simulator.faults.add("createJob")


def test_a_server_that_goes_and_comes_back(client: Any, simulator: Simulator) -> None:
    simulator.add_job("a")
    url = simulator.url
    simulator.stop()
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        client.list_projects()
    simulator.start()
    assert simulator.url == url
    assert [job.name for job in client.list_jobs(simulator.project.id).jobs] == ["a"]


async def test_it_goes_and_comes_back_for_asynchronous_tests_too(simulator: Simulator) -> None:
    simulator.stop()
    simulator.start()
    health = f"{simulator.url}/healthz"
    async with aiohttp.ClientSession() as session, session.get(health) as answer:
        assert answer.status == 200


def test_a_port_that_is_taken_is_an_error(simulator: Simulator, tmp_path: Path) -> None:
    port = int(simulator.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        Simulator(tmp_path / "other", port=port).start()


def test_many_clients_at_once(client: Any, simulator: Simulator) -> None:
    body, project = job_body(simulator), simulator.project.id
    threads = [threading.Thread(target=client.create_job, args=(body, project)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in simulator.jobs(project)}) == 20
