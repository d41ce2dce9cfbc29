"""The API server and the models give every spec the same verdict.

Random specs of all kinds, valid and damaged, go to a real API server (strict field validation,
dry run) and through the models. A spec that only one of them takes would either fail in the
operator after it was accepted, or be refused for no reason.
"""

import json
from typing import Any

import pytest
from api_client import ApiClient, collection, manifest, spec_schema
from hypothesis import HealthCheck, given, settings
from kubetune.api.kinds.table import BY_KIND, KINDS, Kind
from kubetune.api.manifests import ObjectError, parse_object
from spec_strategies import specs

pytestmark = pytest.mark.cluster

EXAMPLES = 50  # of each kind
EXHAUSTIVE = 2000


def server_refusal(api: ApiClient, kind: Kind, spec: object) -> str | None:
    """Why the API server refuses a spec, or None."""
    path = f"{collection(kind)}?dryRun=All&fieldValidation=Strict"
    status, answer = api.request("POST", path, manifest(kind, spec))
    assert status in (201, 400, 422), (status, answer)
    return None if status == 201 else answer["message"]


def model_refusal(kind: Kind, spec: object) -> str | None:
    """Why the models refuse a spec, or None."""
    try:
        parse_object(json.loads(json.dumps(manifest(kind, spec))))
    except ObjectError as error:
        return str(error)
    return None


def compare(api: ApiClient, kind: Kind, spec: object) -> None:
    server, model = server_refusal(api, kind, spec), model_refusal(kind, spec)
    assert (server is None) == (model is None), (
        f"\nspec: {json.dumps(spec)}\nAPI server: {server or 'valid'}\nmodels: {model or 'valid'}"
    )


def search(api: ApiClient, kind: Kind, examples: int, derandomize: bool) -> None:
    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(specs(spec_schema(kind)))
    def agree(spec: Any) -> None:
        compare(api, kind, spec)

    agree()


JOB = {"modelRef": {"name": "m"}, "datasetRef": {"name": "d"}}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("FineTuneJob", {**JOB, "method": None}),
        ("FineTuneJob", {**JOB, "modelRef": None}),
        ("FineTuneJob", {**JOB, "resources": {"gpuLabel": {"a": None}}}),
        ("FineTuneJob", {**JOB, "method": {"lora": {"rank": 8.0}}}),
        ("FineTuneJob", {**JOB, "method": {"lora": {"targetModules": [None]}}}),
        ("FineTuneJob", {**JOB, "method": {"quantization": {"bits": 4.0}}}),
        ("FineTuneJob", {**JOB, "method": {"quantization": {"bits": True}}}),
        ("FineTuneJob", {**JOB, "method": {"quantization": {"bits": None, "type": "nf4"}}}),
        ("FineTuneJob", {**JOB, "hyperparameters": {"epochs": None, "maxSteps": 1}}),
        ("FineTuneJob", {**JOB, "hyperparameters": {"maxSteps": 1.0}}),
        ("Model", {"source": {"registry": {"name": "r", "version": 1.0}}}),
        ("Model", {"source": {"huggingFace": {"repo": "é/a"}}}),
        ("ClusterComputeTarget", {"tracking": {"uri": "http://\u0085"}}),
        ("Dataset", {"source": {"inline": {"rows": [{"a": None}]}}}),
    ],
)
def test_server_and_models_agree_on_what_once_differed(
    api: ApiClient, kind: str, spec: dict[str, Any]
) -> None:
    compare(api, BY_KIND[kind], spec)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_server_and_models_agree(api: ApiClient, kind: Kind) -> None:
    search(api, kind, EXAMPLES, derandomize=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_server_and_models_agree_on_many(api: ApiClient, kind: Kind) -> None:
    search(api, kind, EXHAUSTIVE, derandomize=False)
