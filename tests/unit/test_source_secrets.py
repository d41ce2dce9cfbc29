"""Which Secrets runs read sources with, for every source that a Dataset or a Model can have."""

from __future__ import annotations

import pytest
from builders import dataset, model, target
from kubetune.api import JsonObject
from kubetune.api.kinds.dataset.spec import DatasetSource
from kubetune.api.kinds.model.spec import ModelSource
from kubetune.observe.secrets import source_secrets

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


@pytest.mark.parametrize("source", MODELS)
def test_models_need_the_token_of_their_hub_alone(source: str) -> None:
    expected = [("hub", "read")] if source == "huggingFace" else []
    # Before anything is known of it, as at the first look.
    assert source_secrets(target().spec, model({"source": MODELS[source]})) == expected
    adapter = model({"source": MODELS[source], "baseModelRef": {"name": "base"}})
    assert source_secrets(target().spec, None, adapter, dataset()) == expected


@pytest.mark.parametrize("source", DATASETS)
def test_datasets_need_the_token_of_their_hub_alone(source: str) -> None:
    expected = [("hub", "read")] if source == "huggingFace" else []
    assert source_secrets(target().spec, dataset({"source": DATASETS[source]})) == expected
