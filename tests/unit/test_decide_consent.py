"""Which Secrets and claims runs need, for every source that a Dataset or a Model can have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from backend_objects import request as pod_request
from builders import dataset, model, target
from cml_objects import request as cml_request
from kubetune.api import JsonObject
from kubetune.api.kinds.dataset.spec import DatasetSource
from kubetune.api.kinds.model.spec import ModelSource
from kubetune.api.run.plan import ENV_JUDGE_KEY, ENV_MODEL_TOKEN
from kubetune.api.schema.base import SecretKeyRef
from kubetune.decide.consent import Wanted, of_request, of_sources
from kubetune.targets.kubernetes.manifests import build_job

TOKEN: JsonObject = {"tokenSecretRef": {"name": "hub", "key": "read"}}
HUB: JsonObject = {"huggingFace": {"repo": "org/it", **TOKEN}}
VOLUME: JsonObject = {"claimName": "disk"}
MODELS: dict[str, JsonObject] = {
    "huggingFace": HUB,
    "volume": {"volume": VOLUME | {"path": "base"}},
    "project": {"project": {"path": "base"}},
    "registry": {"registry": {"name": "base", "alias": "champion"}},
    "fineTuneJob": {"fineTuneJob": {"name": "first"}},
}
DATASETS: dict[str, JsonObject] = {
    "huggingFace": HUB,
    "http": {"http": {"url": "https://example.org/rows.jsonl", "format": "jsonl"}},
    "volume": {"volume": VOLUME | {"glob": "*.jsonl", "format": "jsonl"}},
    "project": {"project": {"glob": "*.jsonl", "format": "jsonl"}},
    "configMap": {"configMap": {"name": "rows", "key": "rows.jsonl", "format": "jsonl"}},
    "inline": {"inline": {"rows": [{"prompt": "a"}]}},
}


def test_the_tables_have_every_source() -> None:
    for source, table in ((ModelSource, MODELS), (DatasetSource, DATASETS)):
        names = {field.alias or name for name, field in source.model_fields.items()}
        assert names == table.keys()


def expected(source: str, table: dict[str, JsonObject]) -> list[Wanted]:
    """What a source of the table needs: the token of its hub, or its claim."""
    given = table[source]
    if "huggingFace" in given:
        return [Wanted("Secret", "hub", "hub", "read")]
    return [Wanted("PersistentVolumeClaim", "disk", "data")] if "volume" in given else []


@pytest.mark.parametrize("source", MODELS)
def test_models_need_the_token_of_their_hub_or_their_claim(source: str) -> None:
    # Before anything is known of it, as at the first look.
    wanted = expected(source, MODELS)
    assert of_sources(target().spec, model({"source": MODELS[source]})) == wanted
    adapter = model({"source": MODELS[source], "baseModelRef": {"name": "base"}})
    assert of_sources(target().spec, None, adapter, dataset()) == wanted


@pytest.mark.parametrize("source", DATASETS)
def test_datasets_need_the_token_of_their_hub_or_their_claim(source: str) -> None:
    wanted = expected(source, DATASETS)
    assert of_sources(target().spec, dataset({"source": DATASETS[source]})) == wanted


def test_workspaces_are_given_nothing_of_the_cluster() -> None:
    given = [dataset({"source": DATASETS[source]}) for source in DATASETS]
    assert of_sources(cml_request().target, *given) == []


ENV = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "variable", "key": "k"}}}]
EVERYTHING = target(
    tracking={"uri": "http://mlflow", "credentialsSecretRef": {"name": "mlflow"}},
    kubernetes={
        "image": "runner",
        "env": ENV,
        "envFrom": [{"secretRef": {"name": "variables"}}, {"configMapRef": {"name": "plain"}}],
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "v", "claimName": "shared", "mountPath": "/shared"}],
        "modelCache": {"claimName": "cache"},
        "serviceAccountName": "runner",
    },
)


def test_a_run_needs_consent_for_everything_that_its_manifest_names() -> None:
    given = EVERYTHING.spec
    assert given
    names = {
        f"{ENV_JUDGE_KEY}0": SecretKeyRef(name="judge", key="k"),
        ENV_MODEL_TOKEN: SecretKeyRef(name="hub", key="k"),
    }
    request = pod_request(
        target=given,
        dataset_claim="rows",
        model_claim="model",
        base_model_claim="base",
        checkpoint_claim="steps",
        tokens=names,
    )
    wanted = of_request(request)
    assert {(each.kind, each.name, each.use) for each in wanted} == {
        ("Secret", "mlflow", "tracking"),
        ("Secret", "judge", "judge"),
        ("Secret", "hub", "hub"),
        *(("Secret", name, "target") for name in ("variable", "variables", "registry")),
        *(("PersistentVolumeClaim", name, "data") for name in ("rows", "model", "base")),
        ("PersistentVolumeClaim", "steps", "checkpoint"),
        *(("PersistentVolumeClaim", name, "target") for name in ("shared", "cache")),
        ("ServiceAccount", "runner", "target"),
    }
    # Whatever the pod names, and nothing is forgotten when it comes to name more.
    named = set(_named(build_job(request)["spec"]["template"]["spec"]))
    assert named == {each.name for each in wanted}


def _named(value: Any, within: str = "") -> Iterator[str]:
    """Names of Secrets, claims and service accounts anywhere in a pod."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("claimName", "secretName", "serviceAccountName"):
                yield item
            elif key in ("secretKeyRef", "secretRef"):
                yield item["name"]
            else:
                yield from _named(item, key)
    elif isinstance(value, list):
        for item in value:
            if within == "imagePullSecrets":
                yield item["name"]
            yield from _named(item, within)
