"""The API server and the models give every spec the same verdict.

Random specs of all kinds, valid and damaged, go to a real API server (strict field validation,
dry run) and through the models. A spec that only one of them takes would either fail in the
operator after it was accepted, or be refused for no reason.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from kubetune.api.crd import custom_resource_definition
from kubetune.api.kinds import KINDS, Kind
from kubetune.api.manifests import ObjectError, parse_object
from kubetune.local.cluster import LocalCluster

from api_client import ApiClient, collection, manifest
from spec_strategies import specs

pytestmark = pytest.mark.cluster

EXAMPLES = 50  # of each kind
EXHAUSTIVE = 2000


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    client = ApiClient(cluster.kubeconfig, tmp_path_factory.mktemp("client"))
    yield client
    client.close()


def spec_schema(kind: Kind) -> dict[str, Any]:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]["properties"]["spec"]


def server_refusal(client: ApiClient, kind: Kind, spec: object) -> str | None:
    """Why the API server refuses a spec, or None."""
    path = f"{collection(kind)}?dryRun=All&fieldValidation=Strict"
    status, answer = client.request("POST", path, manifest(kind, spec))
    assert status in (201, 400, 422), (status, answer)
    return None if status == 201 else answer["message"]


def model_refusal(kind: Kind, spec: object) -> str | None:
    """Why the models refuse a spec, or None."""
    try:
        parse_object(json.loads(json.dumps(manifest(kind, spec))))
    except ObjectError as error:
        return str(error)
    return None


def compare(client: ApiClient, kind: Kind, spec: object) -> None:
    server, model = server_refusal(client, kind, spec), model_refusal(kind, spec)
    assert (server is None) == (model is None), (
        f"\nspec: {json.dumps(spec)}\nAPI server: {server or 'valid'}\nmodels: {model or 'valid'}"
    )


def search(client: ApiClient, kind: Kind, examples: int, derandomize: bool) -> None:
    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck.__members__.values()],
    )
    @given(specs(spec_schema(kind)))
    def agree(spec: Any) -> None:
        compare(client, kind, spec)

    agree()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_server_and_models_agree(client: ApiClient, kind: Kind) -> None:
    search(client, kind, EXAMPLES, derandomize=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_server_and_models_agree_on_many(client: ApiClient, kind: Kind) -> None:
    search(client, kind, EXHAUSTIVE, derandomize=False)
