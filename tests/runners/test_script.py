"""Training code of the user: real small trainings by scripts, and scripts that go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune.api.run.plan import ModelPlan, RunPlan
from kubetune.api.run.redact import redactor
from kubetune.api.run.training_plan import ScriptPlan
from kubetune_runner.errors import RunError
from kubetune_runner.own_code import ending, found, script
from kubetune_runner.processes.group import Group
from kubetune_runner.signals import StopSignal

from tests.runners.cml_project import Project
from tests.runners.conftest import PlanFactory, Runner

pytestmark = pytest.mark.training

TRAINER = """
import os, sys
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling,
                          Trainer, TrainingArguments)

files = {"train": os.environ["KUBETUNE_TRAIN_DATA"], "eval": os.environ["KUBETUNE_EVAL_DATA"]}
rows = load_dataset("json", data_files=files)
tokenizer = AutoTokenizer.from_pretrained(os.environ["KUBETUNE_MODEL"])
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

def encode(row):
    return tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)

rows = rows.map(encode, remove_columns=["prompt", "completion"])
model = AutoModelForCausalLM.from_pretrained(os.environ["KUBETUNE_MODEL"])
if "full" not in sys.argv:
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
trainer = Trainer(
    model,
    TrainingArguments(
        os.environ["KUBETUNE_CHECKPOINTS"], max_steps=6, logging_steps=1, learning_rate=0.01,
        save_steps=3, eval_strategy="steps", eval_steps=6, use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=4, REPORT
    ),
    train_dataset=rows["train"],
    eval_dataset=rows["eval"],
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
)
trainer.train(resume_from_checkpoint=os.environ.get("KUBETUNE_RESUME_FROM_CHECKPOINT"))
trainer.save_model(os.environ["KUBETUNE_OUTPUT"])
"""
AGAIN = '"KUBETUNE_RESUME_FROM_CHECKPOINT" in os.environ'
NOT_AT_ONCE = f"if not {AGAIN}: sys.exit(75)"
SECONDS = 500
AUTOLOG = "import mlflow\nmlflow.autolog()\n"


@pytest.fixture
def scripted(make_plan: PlanFactory) -> Callable[..., RunPlan]:
    """Builds a plan with a script of this text."""

    def build(text: str, *args: str, **over: Any) -> RunPlan:
        given = {"name": "train.py", "text": text, "args": list(args)}
        training = over.pop("training", {})
        return make_plan(training={"script": given, **training}, **over)

    return build


def run_of(server: str, run_id: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(server).get_run(run_id)


def test_a_plain_trainer_reports_goes_on_and_its_adapter_is_measured_and_uploaded(
    scripted: Callable[..., RunPlan], mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    """With MLflow's callback and autologging; the first attempt asks for another one."""
    import mlflow

    text = AUTOLOG + TRAINER.replace("REPORT", 'report_to="mlflow"')
    text = text.replace("max_steps=6", f"max_steps=6 if {AGAIN} else 3")
    text = text.replace("trainer.save_model", f"{NOT_AT_ONCE}\ntrainer.save_model")
    plan = scripted(
        text, tracking={"uri": mlflow_server}, training={"evaluation": {"baseline": True}}
    )
    code, outcome = start_runner(plan).wait(SECONDS)
    assert (code, outcome.retryable) == (1, True), outcome
    runner = start_runner(plan, KUBETUNE_ATTEMPT="2")
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason) == (0, "Trained"), (outcome, runner.log)
    summary: Any = outcome.summary
    assert summary["steps"] == 6
    assert summary["metrics"]["eval_loss"] < summary["metrics"]["baseline_eval_loss"]
    assert summary["rows"]["train"]["used"] == 64
    run = run_of(mlflow_server, summary["runId"])
    assert run.info.status == "FINISHED"
    assert run.data.tags[names.TAG_MODEL_ID] == summary["modelId"]
    assert run.data.tags[names.TAG_TOTAL_STEPS] == "6"
    assert run.data.metrics[names.METRIC_STEP] == 6
    assert run.data.metrics["loss"] > 0
    assert run.data.params["save_steps"] == "3", "the trainer's own parameters are there too"
    # The registered version works as one of trl's does.
    mlflow.set_tracking_uri(mlflow_server)
    loaded = mlflow.pyfunc.load_model(f"models:/{summary['modelId']}")
    assert isinstance(loaded.predict(["My router does not work."])[0], str)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{summary['modelId']}"))
    config = json.loads(next(folder.rglob("adapter_config.json")).read_text())
    assert config["base_model_name_or_path"] == plan.model.directory
    assert not list(folder.rglob("training_args.bin"))


def test_a_whole_model_that_reports_by_the_protocol_alone(
    scripted: Callable[..., RunPlan], mlflow_server: str, fork_runner: Callable[..., Runner]
) -> None:
    plan = scripted(TRAINER.replace("REPORT", ""), "full", tracking={"uri": mlflow_server})
    runner = fork_runner(plan)
    code, outcome = runner.wait(SECONDS)
    assert code == 0, (outcome, runner.log)
    assert outcome.message == "the code left a model after 6 steps"
    summary: Any = outcome.summary
    assert "eval_loss" in summary["metrics"]
    run = run_of(mlflow_server, summary["runId"])
    assert run.data.tags[names.TAG_TOTAL_STEPS] == "6"
    assert run.data.metrics[names.METRIC_STEP] == 6
    assert "loss" in run.data.metrics
    assert "save_steps" not in run.data.params


NO_MODEL = """
import os, pathlib
pathlib.Path(os.environ["KUBETUNE_OUTPUT"], "notes.txt").write_text("well")
pathlib.Path(os.environ["KUBETUNE_OUTPUT"], "checkpoint-4").mkdir()
"""
CRASH = """
import os, sys
print("connecting with", os.environ["MLFLOW_TRACKING_PASSWORD"], file=sys.stderr)
print("to http://me:s3cr3t@host/", file=sys.stderr)
raise KeyError("no such column: answer")
"""
ENDS = [
    ("no model", NO_MODEL, "NoModel", ["checkpoint-4/, notes.txt", "KUBETUNE_OUTPUT"]),
    ("crash", CRASH, "ScriptFailed", ["exit code 1", "KeyError", "***@host", "train.py"]),
    ("syntax", "def f(:\n  pass", "ScriptInvalid", ["train.py", "line 1", "SyntaxError"]),
    ("no text", "a\0b", "ScriptInvalid", ["null bytes"]),
    ("asks for more", "raise SystemExit(75)", "ScriptFailed", ["asked for another attempt"]),
    ("killed", "import os; os.kill(os.getpid(), 9)", "ScriptKilled", ["SIGKILL", "memory"]),
    ("no memory", "raise MemoryError", "OutOfMemory", ["MemoryError"]),
    ("says nothing", "raise SystemExit(3)", "ScriptFailed", ["exit code 3"]),
]
RETRYABLE = ("asks for more", "killed", "no memory")
PASSWORD = "hunter2hunter2"


@pytest.mark.parametrize("end", ENDS, ids=[end[0] for end in ENDS])
def test_an_end_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: tuple[str, str, str, list[str]]
) -> None:
    name, text, reason, says = end
    output = tmp_path / "output"
    output.mkdir()
    given = {"KUBETUNE_OUTPUT": str(output), "MLFLOW_TRACKING_PASSWORD": PASSWORD}

    def run() -> None:
        command = script.fetch(ScriptPlan(name="train.py", text=text), tmp_path)
        group = Group(command, tmp_path, [os.environ | given], redactor(given))
        (end,) = group.wait(StopSignal(), 1)
        ending.check(end.code, list(group.last_errors[0]))
        found.take(output, ModelPlan(name="m", directory="/m"), "sha256:0")

    with pytest.raises(RunError) as raised:
        run()
    assert (raised.value.reason, raised.value.retryable) == (reason, name in RETRYABLE)
    for part in says:
        assert part in raised.value.message
    printed = capsys.readouterr()
    for secret in (PASSWORD, "s3cr3t"):
        assert secret not in raised.value.message + printed.out + printed.err


def test_a_failed_script_is_a_failed_run(
    scripted: Callable[..., RunPlan], mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    plan = scripted(CRASH, tracking={"uri": mlflow_server})
    opened = {"KUBETUNE_CODE_VARIABLES": "MLFLOW_TRACKING_PASSWORD"}
    runner = start_runner(plan, MLFLOW_TRACKING_PASSWORD=PASSWORD, **opened)
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason) == (64, "ScriptFailed"), (outcome, runner.log)
    assert "no such column: answer" in outcome.message
    assert PASSWORD not in outcome.message + runner.log


@pytest.mark.parametrize(
    ("path", "reason"), [("link.py", "ScriptOutside"), ("none.py", "ScriptMissing")]
)
def test_a_path_must_stay_in_its_volume(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "outside.py").write_text("")
    root = tmp_path / "code"
    root.mkdir()
    (root / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(RunError, match=path) as raised:
        script.fetch(ScriptPlan(name=path, path=str(root / path), root=str(root)), tmp_path)
    assert raised.value.reason == reason


WAITS = """
import os, signal, sys, time
def stop(number, frame):
    print("saving", flush=True)
    HANDLE
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("handle", ["sys.exit(0)", "pass"], ids=["stops", "hangs on"])
def test_sigterm_is_passed_on_and_ends_in_time(
    scripted: Callable[..., RunPlan],
    mlflow_server: str,
    fork_runner: Callable[..., Runner],
    handle: str,
) -> None:
    text = WAITS.replace("HANDLE", handle)
    if handle == "pass":
        text = text.replace("time.sleep(600)", "while True: time.sleep(600)")
    runner = fork_runner(
        scripted(text, tracking={"uri": mlflow_server}), KUBETUNE_SCRIPT_GRACE_SECONDS="2"
    )
    runner.wait_for("ready", SECONDS)
    runner.process.send_signal(signal.SIGTERM)
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.status) == (75, "interrupted"), (outcome, runner.log)
    assert "saving" in runner.log
    assert ("it is killed" in runner.log) == (handle == "pass")


HANGS = """
import os, pathlib, time
print("ready", flush=True)
time.sleep(600)
"""


def test_code_that_reports_no_step_for_too_long_is_ended(
    scripted: Callable[..., RunPlan], mlflow_server: str, fork_runner: Callable[..., Runner]
) -> None:
    plan = scripted(HANGS, tracking={"uri": mlflow_server})
    training = plan.training.model_copy(update={"progress_deadline_seconds": 2})
    runner = fork_runner(plan.model_copy(update={"training": training}))
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason, outcome.retryable) == (1, "NoProgress", True), runner.log
    assert "the code reported no step for 2 seconds" in outcome.message
    assert "ready" in runner.log


LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
"""


def test_nothing_of_the_code_is_left_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", LEAVES_A_CHILD]
    (end,) = Group(command, tmp_path, [os.environ], str).wait(StopSignal(), 1)
    assert end.code == 0
    pid = int(capsys.readouterr().out.split("child ")[1])
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 30
    while stat.exists() and " Z " not in stat.read_text():
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


DIES_WITH_THE_RUN = """
import os, sys
from pathlib import Path
from kubetune_runner.processes.group import Group
from kubetune_runner.signals import StopSignal
text = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"
Group([sys.executable, "-c", text], Path.cwd(), [os.environ], str).wait(StopSignal(), 1)
"""


def test_the_code_dies_with_a_killed_run() -> None:
    command = [sys.executable, "-c", DIES_WITH_THE_RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline().split()[1])
        run.kill()
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 30
    while stat.exists() and " Z " not in stat.read_text():
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


SHOWS = """
import json, os, pathlib, sys
shown = {name: value for name, value in os.environ.items() if name.startswith("KUBETUNE_")}
files = {name: [json.loads(line) for line in open(value)][:1] for name, value in shown.items()
         if name.endswith(("_DATA", "_ROWS"))}
plan = json.load(open(os.environ["KUBETUNE_PLAN"]))
print("SHOWN", json.dumps([shown, files, plan["training"]["hyperparameters"], sys.argv[1:]]))
"""
PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad", "weight": 2}


def test_what_the_code_is_given(
    scripted: Callable[..., RunPlan], mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    plan = scripted(
        SHOWS,
        "--depth",
        "2",
        rows=[PAIR, PAIR | {"rejected": "good"}],
        held_out=[],
        dataset={"format": "preference", "splits": {"evaluationFraction": 0.0}},
        tracking={"uri": mlflow_server},
    )
    runner = start_runner(plan, KUBETUNE_MODEL_TOKEN="hidden", KUBEFLOW_TRAINER_SERVER_URL="x")
    assert runner.wait(SECONDS)[1].reason == "NoModel"
    line = next(line for line in runner.log.splitlines() if line.startswith("SHOWN"))
    shown, files, numbers, args = json.loads(line.removeprefix("SHOWN"))
    assert "KUBETUNE_MODEL_TOKEN" not in shown
    assert "KUBETUNE_EVAL_DATA" not in shown
    assert shown["KUBETUNE_MODEL"] == plan.model.directory
    assert files["KUBETUNE_TRAIN_DATA"] == [{"prompt": "p", "chosen": "good", "rejected": "bad"}]
    assert files["KUBETUNE_TRAIN_ROWS"] == [PAIR]
    assert numbers["maxSteps"] == 8
    assert args == ["--depth", "2"]


LOOKS = """
import json, os
print("SHOWN", json.dumps(dict(os.environ)))
"""
SECRETS = {
    "MLFLOW_TRACKING_TOKEN": "of-mlflow",
    "HF_TOKEN": "of-the-hub",
    "HUGGING_FACE_HUB_TOKEN": "of-the-hub-too",
    "KUBETUNE_JUDGE_KEY_0": "of-a-judge",
    "KUBETUNE_DATASET_TOKEN": "of-the-data",
    "CDSW_APIV2_KEY": "of-the-workspace",
    "AWS_SECRET_ACCESS_KEY": "of-the-store",
    "ANYTHING": "of-an-admin",
    "HTTPS_PROXY": "http://user:of-the-proxy@127.0.0.1:9",
}


@pytest.mark.parametrize("listed", [False, True], ids=["by default", "the admin lists some"])
def test_the_code_has_an_environment_built_from_nothing(
    scripted: Callable[..., RunPlan],
    mlflow_server: str,
    start_runner: Callable[..., Runner],
    listed: bool,
) -> None:
    plan = scripted(LOOKS, tracking={"uri": mlflow_server})
    names = "HF_ENDPOINT, ANYTHING,MLFLOW_TRACKING_TOKEN,KUBETUNE_JUDGE_KEY_0" if listed else ""
    given = SECRETS | {"HF_ENDPOINT": "https://hub", "NO_PROXY": "*", "CUDA_HOME": "/cuda"}
    runner = start_runner(plan, KUBETUNE_CODE_VARIABLES=names, **given)
    assert runner.wait(SECONDS)[1].reason == "NoModel"
    line = next(line for line in runner.log.splitlines() if line.startswith("SHOWN"))
    shown = json.loads(line.removeprefix("SHOWN"))
    allowed = {"ANYTHING", "MLFLOW_TRACKING_TOKEN"} if listed else set()
    assert SECRETS.keys() & shown.keys() == allowed
    assert ("HF_ENDPOINT" in shown) == listed
    assert shown["CUDA_HOME"] == "/cuda"
    # Without credentials it would fail where it logs to the run.
    assert ("MLFLOW_RUN_ID" in shown) == listed
    assert ("MLFLOW_TRACKING_URI" in shown) == listed
    hidden = set(SECRETS.values()) - {SECRETS[name] for name in allowed}
    assert not [value for value in hidden if value in line]


def test_a_script_of_a_cml_project(
    scripted: Callable[..., RunPlan], mlflow_server: str, tmp_path: Path
) -> None:
    document = scripted("", tracking={"uri": mlflow_server}).to_json()
    path, root = f"{names.PROJECT_DIRECTORY}/src/train.py", names.PROJECT_DIRECTORY
    document["training"]["script"] = {"name": "train.py", "path": path, "root": root}
    document["run"]["runKey"] = "key"
    project = Project(tmp_path / "project")
    (project.folder / "src").mkdir()
    (project.folder / "src/train.py").write_text("import helper\nprint('OUTPUT', helper.HERE)")
    (project.folder / "src/helper.py").write_text("import os; HERE = os.environ['KUBETUNE_OUTPUT']")
    # The data and the model are where the plan says, outside of the project's root of runs.
    document["training"]["checkpoint"]["directory"] = f"{names.CHECKPOINT_DIRECTORY}/key"
    for source in (document["model"]["directory"], document["dataset"]["files"]["directory"]):
        link = project.root() / source.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    code, output = project.run(document)
    assert code != 0
    outcome = project.outcome()
    assert outcome.reason == "NoModel", output
    assert f"OUTPUT {project.root()}{names.CHECKPOINT_DIRECTORY}/key/result/output" in output
