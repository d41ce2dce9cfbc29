"""Every example manifest is accepted by the API server, and by the models, as it stands."""

import json
import string
from pathlib import Path

import pytest
from kubetune.api.manifests import read_manifests
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.quickstart.start import NAMESPACE, render

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
APPLY = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-o", "json")


@pytest.fixture(scope="module")
def quickstart_namespace(cluster: LocalCluster) -> None:
    """Dry runs make nothing, so objects in a namespace need it beforehand."""
    cluster.kubectl("apply", "--server-side", "-f", str(EXAMPLES / "quickstart/00-namespace.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(EXAMPLES)) for file in FILES])
def test_api_server_accepts_the_example(
    cluster: LocalCluster, quickstart_namespace: None, file: Path
) -> None:
    text = string.Template(file.read_text()).safe_substitute(SAMPLES="/samples")
    answer = cluster.kubectl(*APPLY, "-f", "-", input=text)
    assert f'"name": "{_first_name(text)}"' in answer


def test_models_accept_all_examples() -> None:
    found = {manifest.kind.kind for manifest in read_manifests([EXAMPLES])}
    assert found == {
        *("Dataset", "Model", "PromptTemplate", "FineTuneJob", "Evaluation"),
        *("ComputeTarget", "ClusterTuningProfile"),
    }


@pytest.mark.parametrize("on_cml", [False, True], ids=["local", "cml"])
@pytest.mark.parametrize("model", [None, "HuggingFaceTB/SmolLM2-135M.Instruct"])
def test_quickstart_renders_objects_that_are_accepted(
    cluster: LocalCluster,
    quickstart_namespace: None,
    tmp_path: Path,
    model: str | None,
    on_cml: bool,
) -> None:
    objects = render(tmp_path, model, on_cml=on_cml)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    answer = json.loads(cluster.kubectl(*APPLY, "-f", "-", input=listed))
    assert len(answer["items"]) == len(objects)
    job = answer["items"][-1]
    assert job["kind"] == "FineTuneJob"
    assert job["metadata"]["namespace"] == NAMESPACE
    names = {(item["kind"], item["metadata"]["name"]) for item in answer["items"]}
    assert ("Model", job["spec"]["modelRef"]["name"]) in names
    paths = [
        item["spec"]["local"]["path"] for item in objects if item["kind"] == "PersistentVolume"
    ]
    assert paths == ([] if on_cml else [str(tmp_path)])


def _first_name(text: str) -> str:
    return next(
        line.strip().removeprefix("name: ")
        for line in text.splitlines()
        if line.startswith("  name: ")
    )
