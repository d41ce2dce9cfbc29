"""The model of the API server answers as a real one does, and comes to the same state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune.local.cluster import LocalCluster

from tests.cluster.api_client import ApiClient
from tests.cluster.support import eventually
from tests.simulation.rehearsal import Model, Rehearsal, draw_requests

pytestmark = pytest.mark.cluster

SCHEDULES = 300
REQUESTS = 6


@pytest.fixture
def api(cluster: LocalCluster, tmp_path: Path) -> Iterator[ApiClient]:
    """A connection as administrator."""
    client = ApiClient(cluster.kubeconfig, tmp_path)
    yield client
    client.close()


def test_model_and_api_server_agree_about_random_requests(api: ApiClient) -> None:
    namespace = f"honest-{os.urandom(4).hex()}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    assert api.request("POST", "/api/v1/namespaces", body)[0] == 201
    try:
        _compare(api, namespace)
    finally:
        api.request("DELETE", f"/api/v1/namespaces/{namespace}")


def _compare(api: ApiClient, namespace: str) -> None:
    models = [Model(seed, namespace) for seed in range(SCHEDULES)]
    schedules = [draw_requests(seed, REQUESTS) for seed in range(SCHEDULES)]
    modelled = [Rehearsal(model.ask, namespace, f"s{at}") for at, model in enumerate(models)]
    real = [Rehearsal(api.request, namespace, f"s{at}") for at in range(SCHEDULES)]
    for step in range(len(schedules[0])):
        # All schedules side by side: the garbage collector works while the others go on.
        for at, requests in enumerate(schedules):
            told = f"schedule {at}: {[str(request) for request in requests[: step + 1]]}"
            ours = modelled[at].perform(requests[step])
            theirs = real[at].perform(requests[step])
            assert (_kind(ours), ours[1]) == (_kind(theirs), theirs[1]), told
            models[at].settle()
        for at, requests in enumerate(schedules):
            _settles_alike(modelled[at], real[at], [str(item) for item in requests[: step + 1]])
    for model in models:
        model.world.close()


def _settles_alike(modelled: Rehearsal, real: Rehearsal, requests: list[str]) -> None:
    wanted, found = modelled.show(), {}

    def same() -> bool:
        nonlocal found
        found = real.show()
        return found == wanted

    try:
        eventually(same, 30)
    except AssertionError:
        differences = [
            f"{role}: the model shows {wanted[role]}, the API server {found[role]}"
            for role in wanted
            if wanted[role] != found[role]
        ]
        raise AssertionError("\n".join([*requests, *differences])) from None


def _kind(answer: tuple[int, Any]) -> int:
    """Success, or the status of the error."""
    return 200 if answer[0] < 300 else answer[0]
