"""Which node labels a job may ask for, by what its target lists."""

from typing import Any

import pytest
from builders import job, observed_job, resource, target
from kubetune.api import JsonObject
from kubetune.api.training.settings import Resources
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.settings.gpu_labels import gpu_label_problem
from kubetune.decide.waiting import NotReady

PRODUCT = "nvidia.com/gpu.product"
BLOCKS: dict[str, JsonObject] = {
    "nothing listed": {},
    "fixed": {"nodeSelector": {"pool": "cheap"}, "gpuLabels": [{"key": "pool"}]},
    "default": {"resources": {"gpuLabel": {PRODUCT: "L4"}}},
    "listed": {"gpuLabels": [{"key": PRODUCT, "values": ["L4", "H100"]}, {"key": "zone"}]},
}
CML: JsonObject = {
    "url": "https://ml.example.com",
    "project": "p",
    "apiKeySecretRef": {"name": "key"},
    "runtime": {"kernel": "Python 3.11"},
}


def resources(labels: dict[str, str]) -> Resources:
    return Resources.model_validate({"gpuLabel": labels})


@pytest.mark.parametrize(
    ("block", "labels", "refusal"),
    [
        ("nothing listed", {}, ""),
        ("nothing listed", {PRODUCT: "H100"}, "lists no labels in its spec.kubernetes.gpuLabels"),
        ("fixed", {"pool": "cheap"}, ""),
        ("fixed", {"pool": "expensive"}, "sets pool: cheap in its spec.kubernetes.nodeSelector"),
        ("default", {PRODUCT: "L4"}, ""),
        ("default", {PRODUCT: "H100"}, "lists no labels"),
        ("listed", {PRODUCT: "H100", "zone": "b"}, ""),
        ("listed", {PRODUCT: "A100"}, f"allows {PRODUCT}: L4 or H100; zone: any value in its"),
        ("listed", {"zone": "b", "pool": "expensive"}, "gpuLabel pool: expensive is refused"),
    ],
)
def test_what_a_target_allows(block: str, labels: dict[str, str], refusal: str) -> None:
    where = target(kubernetes={"image": "runner:1", **BLOCKS[block]})
    found = gpu_label_problem(where, [("spec", resources(labels))])
    assert refusal in found
    assert bool(found) == bool(refusal)


@pytest.mark.parametrize(
    ("listed", "refused"), [({}, False), ({"gpuLabels": [{"key": "gpu", "values": ["a"]}]}, True)]
)
def test_a_project_allows_what_its_workspace_has(listed: JsonObject, refused: bool) -> None:
    where = target(kubernetes=None, cml=CML | listed)
    found = gpu_label_problem(where, [("spec", resources({"gpu": "b"}))])
    assert bool(found) == refused


def test_what_counts_is_checked_and_named() -> None:
    where = target(kubernetes={"image": "runner:1", **BLOCKS["listed"]})
    bad, good = resources({"zone": "b", PRODUCT: "A100"}), resources({PRODUCT: "H100"})
    assert gpu_label_problem(where, [("spec", good), ("TuningProfile p: spec", bad)]) == ""
    told = gpu_label_problem(where, [("spec", None), ("TuningProfile p: spec", bad)])
    assert told.startswith(f"TuningProfile p: spec.resources.gpuLabel {PRODUCT}: A100 is refused")


@pytest.mark.parametrize("of_profile", [False, True])
def test_a_job_is_refused(of_profile: bool) -> None:
    spec: Any = {"resources": {"gpuLabel": {"pool": "expensive"}}}
    where = target(kubernetes={"image": "runner:1", **BLOCKS["fixed"]})
    given: JsonObject = {"profile": resource("TuningProfile", "p", spec)} if of_profile else {}
    named: JsonObject = {"profileRef": {"kind": "TuningProfile", "name": "p"}}
    observed = observed_job(job(named if of_profile else spec), target=where, **given)
    found = resolve(observed)
    assert isinstance(found, NotReady)
    assert (found.refused, str(found.reason)) == (True, "InputsRefused")
    assert "resources.gpuLabel pool: expensive" in found.message
    assert isinstance(resolve(observed_job(job({}), target=where)), Inputs)
