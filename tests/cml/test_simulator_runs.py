"""Runs: their life on the clock, by hand, and as real processes."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from kubetune_devcluster.cml.server import FOREVER, ManualClock, Script, Simulator
from kubetune_devcluster.cml.server.records import Run

from tests.cml.test_simulator import job_body, refused


def ended(simulator: Simulator, run_id: str) -> Run:
    """The run once it has ended."""
    deadline = time.monotonic() + 60
    while (run := simulator.run(run_id)).active:
        assert time.monotonic() < deadline, simulator.log(run_id)
        time.sleep(0.02)
    return run


def written(simulator: Simulator, run_id: str, text: str) -> None:
    """Return when the process of a run has written a text."""
    deadline = time.monotonic() + 60
    while text not in simulator.log(run_id):
        assert simulator.run(run_id).active, simulator.log(run_id)
        assert time.monotonic() < deadline, simulator.log(run_id)
        time.sleep(0.02)


# On the clock


def test_a_run_follows_its_script(client: Any, simulator: Simulator, clock: ManualClock) -> None:
    simulator.script_for = lambda job, run: Script(
        [("ENGINE_SCHEDULING", 10), ("ENGINE_UNKNOWN", 5), ("ENGINE_RUNNING", 20)],
        ends="ENGINE_FAILED",
        outcome={"reason": "OutOfMemory", "name": job.name},
        usage={"oom_killed": True, "k8s_info": {"k8s_reason": "OOMKilled", "k8s_exit_code": 137}},
    )
    project = simulator.project.id
    job = client.create_job(
        job_body(simulator, arguments="of the job", environment={"A": "job", "B": "job"}), project
    )
    variables = {"A": "run", "KUBETUNE_RUN_KEY": "key-1", "KUBETUNE_ATTEMPT": "2"}
    body = {"arguments": "of the run", "environment": variables}
    run = client.create_job_run(body, project, job.id)
    seen = [run.status]
    for seconds in (10, 5, 20):
        clock.advance(seconds)
        seen.append(client.get_job_run(project, job.id, run.id).status)
    assert seen == ["ENGINE_SCHEDULING", "ENGINE_UNKNOWN", "ENGINE_RUNNING", "ENGINE_FAILED"]
    over = client.get_job_run(project, job.id, run.id)
    assert over.arguments == "of the job"
    assert json.loads(over.environment) == {"B": "job", **variables}
    assert (over.finished_at - over.created_at).total_seconds() == pytest.approx(35)
    assert (over.running_at - over.created_at).total_seconds() == pytest.approx(15)
    answer = client.download_project_file(
        project, ".kubetune/runs/key-1/outcome-2.json", _preload_content=False
    )
    assert json.loads(answer.data) == {"reason": "OutOfMemory", "name": "a job"}
    (row,) = client.list_usage().usage_response
    assert (row.id, row.name, row.status, row.duration) == (run.id, "a job", "failed", "35")
    assert (row.oom_killed, row.k8s_info.k8s_exit_code, row.k8s_info.k8s_reason) == (
        True, 137, "OOMKilled")  # fmt: skip
    assert row.message == "Engine exited with status 1."
    simulator.behaviour.no_usage = True
    assert client.list_usage().usage_response == []


@pytest.mark.parametrize(
    ("kill", "mark", "expected"),
    [
        (True, "ignore", ("ENGINE_TIMEDOUT", True)),
        (False, "ignore", ("ENGINE_RUNNING", False)),
        (False, "mark", ("ENGINE_TIMEDOUT", False)),
    ],
)
def test_time_outs(
    client: Any, simulator: Simulator, clock: ManualClock, kill: bool, mark: Any, expected: Any
) -> None:
    simulator.behaviour.timeout_without_kill = mark
    simulator.script_for = lambda _job, _run: Script([("ENGINE_RUNNING", FOREVER)], ends="")
    job = simulator.add_job("a", timeout=60, kill_on_timeout=kill)
    run = simulator.start_run(job.id)
    clock.advance(61)
    found = client.get_job_run(simulator.project.id, job.id, run.id)
    assert (found.status, found.finished_at is not None) == expected


def test_words_of_the_old_api(client: Any, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviour.short_status = True
    job = simulator.add_job("a")
    run = client.create_job_run({}, simulator.project.id, job.id)
    assert run.status == "scheduling"
    clock.advance(100)
    assert client.get_job_run(simulator.project.id, job.id, run.id).status == "succeeded"


def test_arguments_of_a_run_may_count(client: Any, simulator: Simulator) -> None:
    simulator.behaviour.honour_run_arguments = True
    job = simulator.add_job("a", arguments="of the job")
    run = client.create_job_run({"arguments": "of the run"}, simulator.project.id, job.id)
    assert run.arguments == "of the run"


@pytest.mark.parametrize("history", [True, False])
def test_a_second_run_is_refused(client: Any, simulator: Simulator, history: bool) -> None:
    simulator.behaviour.skipped_history = history
    project, job = simulator.project.id, simulator.add_job("a")
    client.create_job_run({}, project, job.id)
    message = refused(lambda: client.create_job_run({}, project, job.id), 400, 9)
    assert message == f"job run for job {job.id} already active"
    found = {run.status for run in client.list_job_runs(project, job.id).job_runs}
    assert ("ENGINE_SKIPPED" in found) == history
    assert simulator.most_active(job.id) == 1


def test_a_second_run_is_skipped(client: Any, simulator: Simulator) -> None:
    simulator.behaviour.second_run = "skip"
    simulator.behaviour.skipped_status = "skipped"
    project, job = simulator.project.id, simulator.add_job("a")
    first = client.create_job_run({}, project, job.id)
    assert client.create_job_run({}, project, job.id).status == "skipped"
    running = client.list_job_runs(project, job.id, search_filter='{"status": "scheduling"}')
    assert [run.id for run in running.job_runs] == [first.id]


def test_stopping(client: Any, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviour.stop_seconds = 5
    project, job = simulator.project.id, simulator.add_job("a")
    run = client.create_job_run({}, project, job.id)
    assert client.stop_job_run(project, job.id, run.id).status == "ENGINE_STOPPING"
    refused(lambda: client.create_job_run({}, project, job.id), 400, 9)
    clock.advance(5)
    assert client.get_job_run(project, job.id, run.id).status == "ENGINE_STOPPED"
    refused(lambda: client.stop_job_run(project, job.id, run.id), 400, 9)
    simulator.behaviour.stop_ended_run = "accept"
    assert client.stop_job_run(project, job.id, run.id).status == "ENGINE_STOPPED"
    client.create_job_run({}, project, job.id)
    assert simulator.most_active(job.id) == 1


def test_statuses_by_hand(client: Any, simulator: Simulator, clock: ManualClock) -> None:
    project, job = simulator.project.id, simulator.add_job("a")
    run = client.create_job_run({}, project, job.id)
    simulator.set_status(run.id, "ENGINE_ON_HOLIDAY")
    clock.advance(100)
    assert client.get_job_run(project, job.id, run.id).status == "ENGINE_ON_HOLIDAY"
    simulator.set_status(run.id, None)
    assert client.get_job_run(project, job.id, run.id).status == "ENGINE_SUCCEEDED"
    other = client.create_job_run({}, project, job.id)
    simulator.stop_run_by_hand(other.id)
    assert client.get_job_run(project, job.id, other.id).status == "ENGINE_STOPPED"


def test_active_runs_are_counted_over_jobs(simulator: Simulator, clock: ManualClock) -> None:
    first, second = simulator.add_job("a"), simulator.add_job("a")
    for job in (first, second, first):
        simulator.start_run(job.id, {"KUBETUNE_RUN_KEY": "k"})
        clock.advance(3)
    assert simulator.most_active_of("k") == 3
    assert (simulator.most_active(first.id), simulator.most_active(second.id)) == (2, 1)


@pytest.mark.parametrize("how", ["job", "project"])
def test_deleting_ends_an_active_run(client: Any, simulator: Simulator, how: str) -> None:
    project, job = simulator.project.id, simulator.add_job("a")
    run = simulator.start_run(job.id)
    simulator.behaviour.delete_active_job = "refuse"
    refused(lambda: client.delete_job(project, job.id), 400, 9)
    simulator.behaviour.delete_active_job = "stop"
    if how == "job":
        client.delete_job(project, job.id)
    else:
        simulator.delete_project(project)
    refused(lambda: client.get_job_run(project, job.id, run.id), 404, 5)
    assert [run.status for run in simulator.runs(job.id)] == ["ENGINE_STOPPED"]


# Real processes

REPORT = """\
import json, os, sys
import cmlapi
project = cmlapi.default_client().get_project(os.environ["CDSW_PROJECT_ID"])
print(json.dumps({"arguments": sys.argv, "file": "__file__" in globals(), "name": __name__,
                  "folder": os.getcwd(), "project": project.name, "env": dict(os.environ)}))
"""


def test_a_process_finds_what_a_workload_finds(
    client: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "x")
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub")
    simulator.mode = "process"
    simulator.set_environment({"A": "project", "B": "project", "C": "project"})
    simulator.write("src/report.py", REPORT)
    project = simulator.project.id
    body = job_body(simulator, script="src/report.py", arguments="one id")
    job = client.create_job({**body, "environment": {"B": "job", "C": "job"}}, project)
    run = client.create_job_run({"environment": {"C": "run"}}, project, job.id)
    assert ended(simulator, run.id).status == "ENGINE_SUCCEEDED", simulator.log(run.id)
    report = json.loads(simulator.log(run.id))
    env = report.pop("env")
    folder = str(simulator.files().resolve())
    assert report == {
        "arguments": ["src/report.py", "-f", "connection.json"],
        "file": False,
        "name": "__main__",
        "folder": folder,
        "project": "kubetune-demo",
    }
    assert [env[name] for name in "ABC"] == ["project", "job", "run"]
    assert env["CDSW_API_URL"] == f"{simulator.url}/api/v1"
    assert env["CDSW_DOMAIN"] == simulator.url.removeprefix("http://")
    assert (env["JOB_ARGUMENTS"], env["HOME"]) == ("one id", folder)
    assert (env["MLFLOW_TRACKING_URI"], env["HF_ENDPOINT"]) == ("cml://localhost", "http://hub")
    assert not {"SOME_SECRET", "HF_TOKEN"} & set(env)
    assert env["CDSW_APIV2_KEY"] != simulator.api_key
    # The key of a workload ends with it.
    client.api_client.set_default_header("authorization", f"Bearer {env['CDSW_APIV2_KEY']}")
    refused(client.list_projects, 401, 16)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise ValueError('wrong')", "ValueError: wrong"),
        ("import os; print('gone', flush=True); os._exit(0)", "gone"),
        ("def", "SyntaxError"),
    ],
)
def test_a_kernel_fails(client: Any, simulator: Simulator, source: str, says: str) -> None:
    simulator.mode = "process"
    simulator.write("fail.py", source)
    run = simulator.start_run(simulator.add_job("a", script="fail.py").id)
    assert ended(simulator, run.id).status == "ENGINE_FAILED"
    assert says in simulator.log(run.id)
    (row,) = client.list_usage().usage_response
    assert (row.status, row.k8s_info.k8s_exit_code) == ("failed", 1)


def test_an_environment_that_the_system_refuses_fails_the_run(
    client: Any, simulator: Simulator
) -> None:
    simulator.mode = "process"
    run = simulator.start_run(simulator.add_job("a").id, {"PLAN": "x" * 200_000})
    assert ended(simulator, run.id).status == "ENGINE_FAILED"
    assert "can't start: Argument list too long" in client.list_usage().usage_response[0].message


STUBBORN = """\
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, "ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_stopping_a_process_ends_its_children_too(client: Any, simulator: Simulator) -> None:
    simulator.mode = "process"
    simulator.behaviour.process_grace_seconds = 0.5
    simulator.write("stubborn.py", STUBBORN)
    project, job = simulator.project.id, simulator.add_job("a", script="stubborn.py")
    run = client.create_job_run({}, project, job.id)
    written(simulator, run.id, "ready")
    assert client.stop_job_run(project, job.id, run.id).status == "ENGINE_STOPPING"
    over = ended(simulator, run.id)
    assert (over.status, over.exit_signal) == ("ENGINE_STOPPED", signal.SIGKILL)
    assert "asked" in simulator.log(run.id)
    child = int(simulator.log(run.id).split()[1])
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "Z" not in _state(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_a_process_times_out(client: Any, simulator: Simulator) -> None:
    simulator.mode = "process"
    simulator.write("sleep.py", "import time; time.sleep(600)")
    job = simulator.add_job("a", script="sleep.py", timeout=1, kill_on_timeout=True)
    run = simulator.start_run(job.id)
    assert ended(simulator, run.id).status == "ENGINE_TIMEDOUT"


def test_a_process_outlives_an_outage_but_not_the_workspace(
    client: Any, simulator: Simulator
) -> None:
    simulator.mode = "process"
    simulator.write("sleep.py", "import os, time; print(os.getpid(), 'up', flush=True)\n"
                               "time.sleep(600)")  # fmt: skip
    run = simulator.start_run(simulator.add_job("a", script="sleep.py").id)
    written(simulator, run.id, "up")
    simulator.stop()
    assert simulator.run(run.id).active
    simulator.close()
    assert not simulator.run(run.id).active


def test_it_runs_from_the_command_line(cmlapi_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kubetune_devcluster.cml", "--folder", str(tmp_path / "cml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            key = (tmp_path / "cml" / "key").read_text().strip()
            assert (tmp_path / "cml" / "key").stat().st_mode & 0o777 == 0o600
            with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
                assert answer.status == 200
            import cmlapi  # pyright: ignore[reportMissingImports]

            (project,) = cmlapi.default_client(url, key).list_projects().projects
            assert project.name == "kubetune-demo"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
