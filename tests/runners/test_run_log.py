"""What a run has printed: in MLflow however it ends, bounded, and without credentials."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.kinds.running import MAX_LOG_BYTES
from kubetune.api.run.outcome import Outcome, last_lines
from kubetune.api.run.plan import ENV_CODE_VARIABLES, InspectionPlan, RunPlan
from kubetune_runner import outcomes, run_log
from kubetune_runner.mlflow import log_upload
from kubetune_runner.run_log import RunLog

from tests.runners.conftest import PlanFactory, Runner

training = pytest.mark.training
TOKEN = "hf_" + "s3cr3t" * 5
SECRET = {"KUBETUNE_DATASET_TOKEN": TOKEN, "MY_PASSWORD": "correct-horse"}


def stored(server: str, plan: RunPlan | InspectionPlan, name: str = "logs/attempt-1.log") -> str:
    """The artifact of the plan's run."""
    import mlflow
    from mlflow.tracking import MlflowClient

    assert plan.tracking is not None
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(plan.tracking.experiment)
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`kubetune.run_key` = '{plan.run.run_key}'"
    )
    assert len(runs) == 1
    mlflow.set_tracking_uri(server)
    return mlflow.artifacts.load_text(f"runs:/{runs[0].info.run_id}/{name}")


class TestKeeping:
    def test_head_and_tail_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_log, "HEAD_BYTES", 100)
        monkeypatch.setattr(run_log, "TAIL_BYTES", 200)
        kept = RunLog({})
        for number in range(1000):
            kept.add(f"line {number}")
        lines = kept.text().splitlines()
        assert lines[0] == "line 0"
        assert lines[-1] == "line 999"
        assert len(kept.text()) < 400
        assert any("lines (0.0 MiB) are left out here" in line for line in lines)
        assert kept.last(2) == "line 998\nline 999"

    def test_the_bounds_hold_for_bytes_and_for_lines_without_end(self) -> None:
        kept = RunLog({})
        for _ in range(400):
            kept.add("ä" * 20_000)
        assert len(kept.text().encode()) < run_log.HEAD_BYTES + run_log.TAIL_BYTES + 200

    def test_prints_records_and_bars_are_kept_in_order_and_streams_come_back(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kept, before = RunLog(SECRET), (sys.stdout, sys.stderr)
        with kept.capture():
            print("one", TOKEN)
            logging.getLogger("kubetune_runner").warning("two %s", SECRET["MY_PASSWORD"])
            print("10%\r50%\r100%", file=sys.stderr)
            sys.stdout.write("no end")
        assert (sys.stdout, sys.stderr) == before
        lines = kept.text().splitlines()
        assert lines[0] == "one ***"
        assert lines[1].endswith("two ***")
        assert lines[2:] == ["100%", "no end"]
        assert TOKEN not in capsys.readouterr().out, "the pod's own log hides it, too"

    def test_what_came_into_the_environment_later_is_hidden_as_well(self) -> None:
        kept = RunLog({})
        kept.add("opensesame opens it")
        kept.learn_secrets({"LATE_TOKEN": "opensesame"})
        kept.add("opensesame again")
        assert kept.text() == "*** opens it\n*** again\n"
        assert kept.last() == "*** opens it\n*** again"

    def test_a_cut_through_a_secret_leaves_nothing_of_it(self) -> None:
        kept = RunLog(SECRET)
        kept.add("x" * (run_log.MAX_LINE - 10) + TOKEN)
        assert "hf_" not in kept.text()


class TestLastLines:
    def test_a_traceback_ends_it(self) -> None:
        text = "\n".join(f"noise {number}" for number in range(100))
        shown = last_lines(f"{text}\nTraceback (most recent call last):\nValueError: no\n")
        assert shown.splitlines()[-2:] == ["Traceback (most recent call last):", "ValueError: no"]
        assert len(shown.splitlines()) == 20

    def test_bytes_count(self) -> None:
        shown = last_lines("\n".join("ü" * 200 for _ in range(30)))
        assert len(shown.encode()) <= MAX_LOG_BYTES
        assert set(shown) == {"ü", "\n"}
        assert len(last_lines("a" * 5000).encode()) < MAX_LOG_BYTES

    def test_a_log_that_does_not_fit_is_left_out_before_the_findings(self) -> None:
        import random

        random.seed(1)
        noise = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=3800))
        findings: Any = {"problems": noise[::-1]}
        outcome = Outcome(status="failed", reason="R", log=noise[:2000], summary=findings)
        left = Outcome.from_message(outcomes.message_of(outcome))
        assert left is not None
        assert (left.log, left.summary) == ("", findings)


@pytest.fixture
def scripted(make_plan: PlanFactory, mlflow_server: str) -> Callable[[str], RunPlan]:
    def build(text: str) -> RunPlan:
        given = {"name": "train.py", "text": text, "args": []}
        return make_plan(training={"script": given}, tracking={"uri": mlflow_server})

    return build


@training
def test_a_run_that_succeeds(
    make_plan: PlanFactory, mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    plan = make_plan(tracking={"uri": mlflow_server})
    runner = start_runner(plan, **SECRET)
    code, outcome = runner.wait()
    assert code == 0, runner.log
    assert outcome.log == "", "only failed runs tell what they have printed"
    text = stored(mlflow_server, plan)
    for words in ("phase preparing", "phase training", "succeeded: Trained"):
        assert words in text


@training
def test_each_worker_has_a_log_of_its_own(
    make_plan: PlanFactory, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubetune_runner.mlflow import client as mlflow_client

    plan = make_plan(tracking={"uri": mlflow_server})
    monkeypatch.setenv("KUBETUNE_WORKER", "2")
    monkeypatch.setenv("KUBETUNE_ATTEMPT", "4")
    ended = Outcome(status="succeeded", reason="Trained")
    log_upload.store(plan, ended, "nobody has made the run: nothing is made for a log\n")
    client: Any = mlflow_client.connect(mlflow_server)
    experiment = mlflow_client.experiment_id(client, plan.tracking.experiment)
    assert mlflow_client.find_run(client, experiment, plan.run.run_key) is None
    client.create_run(experiment, tags={"kubetune.run_key": plan.run.run_key})
    log_upload.store(plan, ended, "worker 2 trained along\n")
    text = stored(mlflow_server, plan, "logs/attempt-4-worker-2.log")
    assert text == "worker 2 trained along\n"


@training
def test_a_run_that_fails_has_its_traceback_in_mlflow_and_its_end_in_the_outcome(
    scripted: Callable[[str], RunPlan], mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    plan = scripted(
        "import os, sys\n"
        "print('said on stdout', os.environ['MY_PASSWORD'])\n"
        "print('said on stderr', os.environ.get('KUBETUNE_DATASET_TOKEN'), file=sys.stderr)\n"
        f"print('{TOKEN}')\n"
        "raise ValueError('the labels are wrong')\n"
    )
    # As a target's admin lists it: the code has nothing else of the run's environment.
    runner = start_runner(plan, **SECRET, **{ENV_CODE_VARIABLES: "MY_PASSWORD"})
    code, outcome = runner.wait()
    assert code == 64, runner.log
    text = stored(mlflow_server, plan)
    for words in ("said on stdout ***", "said on stderr", "ValueError: the labels are wrong"):
        assert words in text
    assert "Traceback (most recent call last)" in outcome.log
    assert "ValueError: the labels are wrong" in outcome.log
    for place in (text, outcome.log, runner.log):
        assert TOKEN not in place
        assert SECRET["MY_PASSWORD"] not in place


@training
def test_a_mistake_of_the_runner_has_its_traceback_too(
    make_plan: PlanFactory, mlflow_server: str, fork_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    plan = make_plan(tracking={"uri": mlflow_server})
    (tmp_path / "checkpoints").write_text("a file where a folder belongs")
    code, outcome = fork_runner(plan, KUBETUNE_ATTEMPT="3").wait()
    assert (code, outcome.reason) == (1, "UnexpectedError")
    assert "FileExistsError" in outcome.log.splitlines()[-1]
    text = stored(mlflow_server, plan, "logs/attempt-3.log")
    assert "Traceback (most recent call last)" in text
    assert "failed: UnexpectedError" in text


@training
def test_a_run_that_is_interrupted(
    scripted: Callable[[str], RunPlan], mlflow_server: str, fork_runner: Callable[..., Runner]
) -> None:
    plan = scripted("import time\nprint('under way', flush=True)\ntime.sleep(600)\n")
    runner = fork_runner(plan)
    runner.wait_for("under way")
    runner.process.send_signal(signal.SIGTERM)
    code, outcome = runner.wait()
    assert (code, outcome.status, outcome.log) == (75, "interrupted", "")
    text = stored(mlflow_server, plan)
    assert "under way" in text
    assert "interrupted: Interrupted" in text


@training
def test_a_server_that_is_away_changes_nothing(
    make_plan: PlanFactory, fork_runner: Callable[..., Runner]
) -> None:
    plan = make_plan(rows=[{"prompt": "a", "completion": ""}])
    runner = fork_runner(plan)
    code, outcome = runner.wait()
    assert (code, outcome.reason) == (64, "NoTrainableRows")
    assert "the log isn't stored in MLflow" in runner.log


@training
def test_a_failed_inspection_has_a_run_with_its_log(
    mlflow_server: str, fork_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    plan = InspectionPlan.model_validate(
        {
            "kind": "inspectDataset",
            "run": {
                "installId": "i",
                "runKey": f"inspection-{tmp_path.name}",
                "namespace": "ns",
                "name": "rows",
                "uid": "u",
            },
            "dataset": {
                "name": "rows",
                "files": {"directory": str(tmp_path / "none"), "glob": "*", "format": "jsonl"},
                "format": "promptCompletion",
                "columns": {},
                "splits": {},
            },
            "tracking": {"uri": mlflow_server, "experiment": "tests"},
        }
    )
    runner = fork_runner(plan)
    code, outcome = runner.wait()
    assert code in (1, 64), runner.log
    assert outcome.status == "failed"
    assert f"failed: {outcome.reason}" in stored(mlflow_server, plan)
