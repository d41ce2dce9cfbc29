"""The quickstart's manifests for both targets, and what its command line refuses."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kubetune.api.manifests import parse_object
from kubetune.cli import main
from kubetune_devcluster.cml import addon as cml
from kubetune_devcluster.components import Layout
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.quickstart import on_cml as quickstart_cml
from kubetune_devcluster.quickstart.start import render

SAMPLES = Path("/samples")
ON_TARGET = {"kind": "ClusterComputeTarget", "name": "cml"}


def by_kind(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["kind"]: item for item in objects}


def test_on_cml_the_samples_come_from_the_project():
    objects = by_kind(render(SAMPLES, None, on_cml=True))
    assert objects["Dataset"]["spec"]["source"] == {
        "project": {"glob": "samples/tickets/*.jsonl", "format": "jsonl"}
    }
    assert objects["Model"]["spec"]["source"] == {"project": {"path": "samples/model"}}
    assert not {"PersistentVolume", "PersistentVolumeClaim"} & objects.keys()


@pytest.mark.parametrize("model", [None, "HuggingFaceTB/SmolLM2-135M"])
def test_the_targets_differ_in_nothing_but_target_and_sources(model: str | None):
    local = by_kind(render(SAMPLES, model))
    on_cml = by_kind(render(SAMPLES, model, on_cml=True))
    for kind in ("Dataset", "Model", "FineTuneJob"):
        assert on_cml[kind]["spec"].pop("computeTargetRef") == ON_TARGET
    for kind in ("Dataset", "Model"):
        for objects in (local, on_cml):
            for name in ("volume", "project"):
                objects[kind]["spec"]["source"].pop(name, None)
    assert on_cml == {kind: local[kind] for kind in on_cml}
    assert list(on_cml)[-1] == "FineTuneJob"


def test_the_objects_on_cml_are_valid():
    objects = render(SAMPLES, None, on_cml=True)
    parsed = [parse_object(item) for item in objects if "kubetune.io" in item["apiVersion"]]
    assert len(parsed) == 4


def test_samples_keep_their_places_in_the_project(tmp_path: Path):
    for name in ("tickets/train.jsonl", "model/config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert quickstart_cml.files(tmp_path) == {
        "samples/model/config.json": tmp_path / "model/config.json",
        "samples/tickets/train.jsonl": tmp_path / "tickets/train.jsonl",
    }


def test_an_unknown_target_is_named_with_the_known_ones():
    result = CliRunner().invoke(main, ["quickstart", "--target", "moon"])
    assert result.exit_code == 2
    assert "'moon'" in result.output
    assert "local" in result.output
    assert "cml" in result.output


def test_the_simulator_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBETUNE_CACHE", str(tmp_path))
    with pytest.raises(LocalClusterError, match="install a Java runtime"):
        cml.prepare(Layout(tmp_path, tmp_path))
