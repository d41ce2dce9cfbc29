"""The generated ``cmlapi`` package is what a workspace serves, and says why it can't be made."""

import inspect
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from kubetune_devcluster.cml import client_package, maven
from kubetune_devcluster.cml.server import Simulator

ARGUMENTS = {
    "list_jobs": ["project_id"],
    "create_job": ["body", "project_id"],
    "update_job": ["body", "project_id", "job_id"],
    "create_job_run": ["body", "project_id", "job_id"],
    "stop_job_run": ["project_id", "job_id", "run_id"],
    "upload_file": ["project_id"],
    "list_project_files": ["project_id", "path"],
    "log_experiment_run_batch": ["body", "project_id", "experiment_id", "run_id"],
    "get_experiment_run_metrics": ["project_id", "experiment_id", "run_id", "metric_key"],
    "create_registered_model": ["body"],
    "update_registered_model_version": ["body", "model_id"],
    "create_model_deployment": ["body", "project_id", "model_id", "build_id"],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_methods_take_the_arguments_of_the_real_client(client: Any, name: str) -> None:
    parameters = inspect.signature(getattr(client, name)).parameters
    assert [key for key in parameters if key != "kwargs"] == ARGUMENTS[name]


def test_the_client_has_no_method_of_what_only_the_server_knows(client: Any) -> None:
    assert not hasattr(client, "replace_file")


def test_default_client_reads_the_environment_of_a_workload(
    cmlapi_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cmlapi  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("CDSW_API_URL", "https://ml.example.com:8443/api/v1")
    monkeypatch.setenv("CDSW_APIV2_KEY", "secret")
    client = cmlapi.default_client()
    assert client.api_client.configuration.host == "https://ml.example.com:8443"
    assert client.api_client.default_headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("url", "key"), [(None, "key"), ("https://a", None), ("ml.example.com", "key")]
)
def test_default_client_refuses_what_leads_nowhere(
    cmlapi_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None, key: str | None
) -> None:
    import cmlapi  # pyright: ignore[reportMissingImports]

    monkeypatch.delenv("CDSW_API_URL", raising=False)
    monkeypatch.delenv("CDSW_APIV2_KEY", raising=False)
    with pytest.raises(ValueError):
        cmlapi.default_client(url, key)


def test_cursor_reads_all_pages(client: Any, simulator: Simulator) -> None:
    import cmlapi  # pyright: ignore[reportMissingImports]

    simulator.behaviour.page_size_limit = 2
    names = {simulator.add_job(f"job {n}").name for n in range(5)}
    cursor = cmlapi.Cursor(client.list_jobs, simulator.project.id)
    assert {job.name for job in cursor.items()} == names
    assert simulator.count("list_jobs") == 3


def test_the_server_offers_the_package_for_pip(cmlapi_path: Path, simulator: Simulator) -> None:
    with urllib.request.urlopen(f"{simulator.url}/api/v2/python.tar.gz", timeout=60) as answer:
        content = answer.read()
    assert content == client_package.archive().read_bytes()
    with tarfile.open(client_package.archive()) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "cmlapi/__init__.py", "cmlapi/utils.py"} <= names


def test_a_missing_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(client_package.ClientPackageError, match="java is not on PATH"):
        client_package.build(tmp_path / "cache")


def test_an_unreachable_repository_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAVEN_MIRROR_URL", f"{simulator.url}/nothing")
    with pytest.raises(client_package.ClientPackageError, match="set MAVEN_MIRROR_URL"):
        client_package.build(tmp_path / "cache")


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ("central", "https://mirror.example.com/m2"),
        ("external:*, !snapshots", "https://mirror.example.com/m2"),
        ("*,!central", maven.CENTRAL),
        ("other", maven.CENTRAL),
    ],
)
def test_the_mirror_of_the_settings_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, expected: str
) -> None:
    monkeypatch.delenv("MAVEN_MIRROR_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors><mirror>'
        f"<mirrorOf>{of}</mirrorOf><url>https://mirror.example.com/m2/</url>"
        "</mirror></mirrors></settings>"
    )
    assert maven.repository() == expected


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "a.jar").write_text("something else")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAVEN_MIRROR_URL", (tmp_path / "mirror").as_uri())
    with pytest.raises(maven.MavenError, match="another SHA-256"):
        maven.fetch("a.jar", "0" * 64, tmp_path / "a.jar")
    assert not (tmp_path / "a.jar").exists()
