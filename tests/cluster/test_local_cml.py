"""``kubetune up --cml``: the simulator of a CML workspace as a part of the local cluster."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune_devcluster.cluster import LocalCluster
from support import eventually, processes_of

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of this module's own, with the simulator and an operator that runs already."""
    home = tmp_path_factory.mktemp("cml") / "home"
    before = LocalCluster(home, {"operator"})
    cluster = LocalCluster(home, {"operator", "cml"})
    try:
        before.up()
        cluster.up()
        yield cluster
    finally:
        cluster.down()
    assert processes_of(home) == []


def target_available(cluster: LocalCluster) -> str:
    """What the target says when it is available, else nothing."""
    target = cluster.client().read("/apis/kubetune.io/v1alpha1/clustercomputetargets/cml")
    conditions: list[dict[str, Any]] = ((target or {}).get("status") or {}).get("conditions") or []
    said = {c["type"]: c["message"] for c in conditions if c["status"] == "True"}
    return said.get("TargetAvailable", "")


def secret(cluster: LocalCluster, namespace: str) -> str:
    text = cluster.kubectl("get", "secret", "cml-api-key", "-n", namespace, "-o", "json")
    return json.loads(text)["data"]["apiKey"]


def test_a_running_operator_finds_the_workspace(own: LocalCluster) -> None:
    assert "answers; runs use" in eventually(lambda: target_available(own))
    assert secret(own, "kubetune-system") == secret(own, "kubetune-quickstart")


def test_files_are_uploaded_into_the_project(own: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    own.upload_to_cml({"samples/rows.jsonl": file})
    [there] = (own.home / "cml" / "projects").glob("*/samples/rows.jsonl")
    assert there.read_text() == file.read_text()


def test_status_knows_it_also_for_who_did_not_ask_for_it(own: LocalCluster) -> None:
    parts = {part.name: part for part in LocalCluster(own.home).status().components}
    assert parts["cml"].state == "running"
    assert parts["cml"].address.startswith("http://127.0.0.1:")
    assert own.log("cml").read_text().strip() == parts["cml"].address


def test_key_address_and_files_stay_over_a_restart(own: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    own.upload_to_cml({"kept.txt": tmp_path / "kept.txt"})
    before = secret(own, "kubetune-system"), own.log("cml").read_text()
    own.down()
    own.up()
    eventually(lambda: own.log("cml").read_text() != "")
    assert (secret(own, "kubetune-system"), own.log("cml").read_text()) == before
    [project] = (own.home / "cml" / "projects").iterdir()
    assert (project / "kept.txt").read_text() == "kept"
    eventually(lambda: project.name in target_available(own))


def test_the_key_is_for_the_owner_only(own: LocalCluster) -> None:
    assert (own.home / "cml" / "key").stat().st_mode & 0o077 == 0
