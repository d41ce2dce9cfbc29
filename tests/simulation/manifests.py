"""The objects that the users of a schedule make."""

from __future__ import annotations

from typing import Any

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.api.kinds.compute_target.spec import DEFAULT_TARGET_ANNOTATION

TEAM, SYSTEM = "team", "system"
TRACKING = {"uri": "http://mlflow:5000"}
CML: JsonObject = {
    "url": "https://cml.example",
    "project": "tuning",
    "apiKeySecretRef": {"name": "cml-key", "key": "key"},
    "runtime": {"identifier": "runtime:1"},
    "runner": {"script": "run.py"},
}


def manifest(kind: str, name: str, spec: JsonObject, **metadata: Any) -> JsonObject:
    """An object of one of kubetune's kinds."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": TEAM, **metadata},
        "spec": spec,
    }


def namespace(name: str) -> JsonObject:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def target(name: str = "main", **tracking: Any) -> JsonObject:
    """A target of this cluster, the namespace's default."""
    spec = {"kubernetes": {"image": "runner:1"}, "tracking": TRACKING | tracking}
    return manifest("ComputeTarget", name, spec, annotations={DEFAULT_TARGET_ANNOTATION: "true"})


def cloud(name: str = "cloud") -> JsonObject:
    """A target of a CML workspace."""
    return manifest("ComputeTarget", name, {"cml": CML, "tracking": TRACKING})


def secret() -> JsonObject:
    """The API key of the workspace."""
    metadata = {"name": "cml-key", "namespace": TEAM, "labels": {USE_LABEL: "target"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": "a2V5"}}


def dataset(name: str = "tickets") -> JsonObject:
    """A Dataset with its rows inside."""
    return manifest(
        "Dataset", name, {"source": {"inline": {"rows": [{"prompt": "a", "completion": "b"}]}}}
    )


def model(name: str = "base") -> JsonObject:
    """A base model of a hub."""
    return manifest("Model", name, {"source": {"huggingFace": {"repo": "org/base"}}})


def job(name: str, **spec: Any) -> JsonObject:
    """A FineTuneJob on what there is."""
    given = {"modelRef": {"name": "base"}, "datasetRef": {"name": "tickets"}}
    return manifest("FineTuneJob", name, given | spec)


def evaluation(name: str, **spec: Any) -> JsonObject:
    """An Evaluation of the base model."""
    given = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "tickets"},
        "metrics": ["exactMatch"],
    }
    return manifest("Evaluation", name, given | spec)
