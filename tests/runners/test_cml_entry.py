"""Runs in a CML project, started as a notebook's kernel starts them."""

from __future__ import annotations

import ast
import shutil
import signal
import socket
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names

from tests.runners.cml_project import CHECKOUT, PACKAGES, Project, Started, inline_rows

ROWS = [{"prompt": f"question {at}", "completion": f"answer {at}"} for at in range(20)]
RUN = {"installId": "install", "runKey": "key", "namespace": "team", "name": "it", "uid": "u"}


def inspection(directory: str = names.PLAN_DIRECTORY, glob: str = "rows.jsonl") -> dict[str, Any]:
    """An inspection of files."""
    dataset = {
        "name": "rows",
        "format": "promptCompletion",
        "columns": {},
        "splits": {},
        "files": {"directory": directory, "glob": glob, "format": "jsonl"},
    }
    return {"version": 1, "kind": "inspectDataset", "run": RUN, "dataset": dataset}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose run finds inline rows."""
    project = Project(tmp_path / "project")
    project.put(names.INLINE_ROWS_FILE, inline_rows(ROWS))
    return project


@pytest.fixture
def few_packages(tmp_path: Path) -> str:
    """A runtime that has pydantic and nothing more."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("pydantic", "pydantic_core", "annotated_types", "typing_extensions.py",
                 "typing_inspection"):  # fmt: skip
        (folder / name).symlink_to(Path(PACKAGES) / name)
    return str(folder)


def own_files(project: Project) -> set[str]:
    return {path.name for path in (project.folder / names.CML_FOLDER).iterdir()}


def test_an_inspection_of_inline_rows(project: Project) -> None:
    code, output = project.run(inspection())
    assert code == 0, output
    outcome = project.outcome()
    assert (outcome.status, outcome.reason) == ("succeeded", "Inspected")
    found: Any = outcome.summary["rows"]
    assert sum(found.values()) == 20
    assert own_files(project) == {"run-0.py", project.archive.name, "runs"}
    assert not (project.root() / "kubetune" / "work").exists()

    code, output = project.run(inspection(), attempt=2)
    assert code == 0, output
    assert project.outcome(2).summary == project.outcome(1).summary


def test_files_of_the_project(project: Project) -> None:
    data = project.folder / "data"
    data.mkdir()
    (data / "train.jsonl").write_text(inline_rows(ROWS))
    code, output = project.run(inspection(names.PROJECT_DIRECTORY, "data/*.jsonl"))
    assert code == 0, output
    code, _ = project.run(inspection(names.PROJECT_DIRECTORY, "date/*.jsonl"), attempt=2)
    assert code == 1
    assert "there are 'data/train.jsonl'" in project.outcome(2).message.replace('"', "'")


def test_a_kernel_that_runs_cells_in_another_thread(project: Project) -> None:
    code, output = project.run(inspection(), thread="other")
    assert code == 0, output
    assert project.outcome().status == "succeeded"


def test_a_checkout_in_the_project_needs_no_archive(project: Project, few_packages: str) -> None:
    skip = shutil.ignore_patterns("__pycache__", "cli", "local", "clients")
    shutil.copytree(CHECKOUT / "runners", project.folder / "runners", ignore=skip)
    shutil.copytree(CHECKOUT / "operator", project.folder / "operator", ignore=skip)
    code, output = project.run(
        inspection(), packages=few_packages, **{names.ENV_RUNNER_ARCHIVE: None}
    )
    assert code == 0, output


def refused(project: Project, plan: dict[str, Any] | str, **options: Any) -> Any:
    """The outcome of a run that must fail by an exception that tells the same."""
    code, output = project.run(plan, **options)
    assert code == 1, output
    outcome = project.outcome()
    assert outcome.status == "failed"
    assert f"RunFailedError: {outcome.reason}: {outcome.message[:60]}" in output
    return outcome


def test_variables_that_nobody_set(project: Project) -> None:
    outcome = refused(
        project,
        inspection(),
        **{
            names.ENV_REQUIRED_VARIABLES: "MLFLOW_TRACKING_TOKEN,SET_ONE,EMPTY_ONE",
            names.ENV_TOKEN_VARIABLES: f"{names.ENV_DATASET_TOKEN}=HF_TOKEN",
            "SET_ONE": "a-secret",
            "EMPTY_ONE": "",
        },
    )
    assert (outcome.reason, outcome.retryable) == ("ProjectVariableMissing", False)
    assert "MLFLOW_TRACKING_TOKEN, EMPTY_ONE, HF_TOKEN" in outcome.message
    assert "Project Settings, Advanced, Environment Variables" in outcome.message
    assert "SET_ONE" not in outcome.message
    assert "a-secret" not in outcome.message


def test_a_runtime_without_any_package(project: Project, tmp_path: Path) -> None:
    outcome = refused(project, inspection(), packages=str(tmp_path))
    assert (outcome.reason, outcome.retryable) == ("RunnerMissing", False)
    assert "pydantic" in outcome.message
    assert "pip install 'kubetune[runner]'" in outcome.message


def test_a_runtime_that_can_inspect_but_not_train(project: Project, few_packages: str) -> None:
    code, output = project.run(inspection(), packages=few_packages)
    assert code == 0, output
    outcome = refused(project, {"version": 1, "kind": "train"}, packages=few_packages)
    assert outcome.reason == "RunnerMissing"
    assert "torch, transformers, peft, trl, datasets, accelerate, mlflow" in outcome.message
    assert "pip install 'kubetune[runner]'" in outcome.message


def test_a_package_that_an_inspection_lacks(project: Project, few_packages: str) -> None:
    plan = inspection(names.PROJECT_DIRECTORY, "rows.parquet")
    plan["dataset"]["files"]["format"] = "parquet"
    (project.folder / "rows.parquet").write_bytes(b"PAR1")
    outcome = refused(project, plan, packages=few_packages)
    assert (outcome.reason, outcome.retryable) == ("RunnerMissing", False)
    assert "pyarrow" in outcome.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("no base64!", "PlanInvalid"),
        ("bm90IHpsaWI=", "PlanInvalid"),
        (names.encode_plan(inspection())[:-20] + "=" * 4, "PlanInvalid"),
        ("", "PlanMissing"),
    ],
)
def test_a_plan_that_can_not_be_read(
    project: Project, few_packages: str, data: str, reason: str
) -> None:
    outcome = refused(project, data, packages=few_packages)
    assert (outcome.reason, outcome.retryable) == (reason, False)
    assert names.ENV_PLAN_DATA in outcome.message


def test_a_plan_of_another_version(project: Project, few_packages: str) -> None:
    outcome = refused(project, {**inspection(), "version": 2}, packages=few_packages)
    assert outcome.reason == "PlanVersion"


def test_an_archive_that_is_gone_or_damaged(project: Project, few_packages: str) -> None:
    content = project.archive.read_bytes()
    project.archive.write_bytes(content[: len(content) // 2])
    outcome = refused(project, inspection(), packages=few_packages)
    assert (outcome.reason, outcome.retryable) == ("RunnerMissing", True)
    assert project.archive.name in outcome.message
    project.archive.unlink()
    outcome = refused(project, inspection(), packages=few_packages)
    assert (outcome.reason, outcome.retryable) == ("RunnerMissing", True)
    assert own_files(project) == {"run-0.py", "runs"}


def test_a_runner_that_nobody_installed(project: Project, few_packages: str) -> None:
    outcome = refused(
        project, inspection(), packages=few_packages, **{names.ENV_RUNNER_ARCHIVE: None}
    )
    assert (outcome.reason, outcome.retryable) == ("RunnerMissing", False)
    assert "spec.cml.runner" in outcome.message


def test_a_runtime_with_an_old_python(project: Project) -> None:
    source = project.script.read_text()
    ast.parse(source, feature_version=(3, 8))
    project.script.write_text(source.replace("(3, 11)", "(3, 99)"))
    outcome = refused(project, inspection())
    assert outcome.reason == "RunnerMissing"
    assert "choose another runtime" in outcome.message


def test_a_script_that_a_person_runs(project: Project) -> None:
    code, output = project.run(inspection(), **{names.ENV_RUN_KEY: None})
    assert code == 1
    assert "apply a FineTuneJob" in output


@contextmanager
def waiting_for_a_hub(project: Project) -> Generator[Started]:
    """A run that waits for the answer of a hub."""
    plan = inspection()
    del plan["dataset"]["files"]
    plan["dataset"]["hub"] = {"repo": "acme/rows", "revision": "main"}
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(120)
        run = project.start(plan, HF_ENDPOINT=f"http://127.0.0.1:{hub.getsockname()[1]}")
        connection, _ = hub.accept()
        with connection:
            yield run


def test_a_run_that_is_stopped_leaves_an_outcome(project: Project) -> None:
    with waiting_for_a_hub(project) as run:
        run.process.send_signal(signal.SIGTERM)
        code, output = run.wait()
    assert code == 1, output
    assert (project.outcome().status, project.outcome().reason) == ("interrupted", "Interrupted")


def test_the_outcome_of_a_run_that_was_killed_is_not_that_of_an_earlier_run(
    project: Project,
) -> None:
    assert project.run(inspection())[0] == 0
    with waiting_for_a_hub(project) as run:
        run.process.kill()
        run.wait()
    assert not (project.folder / names.outcome_path("key", 1)).exists()


def test_code_that_did_not_come_with_the_job_is_never_run(
    project: Project, few_packages: str
) -> None:
    attack = "import pathlib; pathlib.Path('attacked').touch()\n"
    digest = project.archive.stem.removeprefix("kubetune-")
    unpacked = project.folder / names.CML_FOLDER / f"runner-{digest}"
    places = [unpacked, project.folder, project.folder / "runners"]
    for place in places:
        for name in ("kubetune", "kubetune_runner", "kubetune_runner/cml"):
            (place / name).mkdir(parents=True, exist_ok=True)
            (place / name / "__init__.py").write_text(attack)
        (place / "kubetune_runner/cml/project.py").write_text(attack)
    (project.folder / "pydantic.py").write_text(attack)
    code, output = project.run(inspection(), packages=few_packages)
    assert code == 0, output
    assert not (project.folder / "attacked").exists()

    with zipfile.ZipFile(project.archive, "a") as archive:
        archive.writestr("kubetune_runner/errors.py", attack)
    outcome = refused(project, inspection(), packages=few_packages)
    assert (outcome.reason, outcome.retryable) == ("RunnerMissing", True)
    assert "isn't what was uploaded" in outcome.message
    assert not (project.folder / "attacked").exists()


def test_runs_at_once_have_a_runner_each(project: Project, few_packages: str) -> None:
    keys = ["one", "two", "three"]
    for key in keys:
        project.put(names.INLINE_ROWS_FILE, inline_rows(ROWS), key)
    temporary = project.folder.with_name("temporary")
    temporary.mkdir()
    runs = [
        project.start(inspection(), run_key=key, packages=few_packages, TMPDIR=str(temporary))
        for key in keys
    ]
    for run in runs:
        code, output = run.wait()
        assert code == 0, output
    assert all(project.outcome(run_key=key).status == "succeeded" for key in keys)
    assert list(temporary.iterdir()) == []
