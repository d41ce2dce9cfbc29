"""The model of the API server answers as a real one does, and comes to the same state."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.api_client import ApiClient
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.simulation.rehearsal import Model, Rehearsal, draw_requests

pytestmark = pytest.mark.cluster

SCHEDULES = 200
REQUESTS = 6
SETTLE_SECONDS = 30.0


@pytest.fixture
def api(cluster: LocalCluster, operator_process: Operator, tmp_path: Path) -> Iterator[ApiClient]:
    """A connection as administrator, while nobody reconciles."""
    operator_process.stop()
    client = ApiClient(cluster.kubeconfig, tmp_path)
    yield client
    client.close()


def test_model_and_api_server_agree_about_random_requests(api: ApiClient) -> None:
    namespace = f"honest-{os.urandom(4).hex()}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    assert api.request("POST", "/api/v1/namespaces", body)[0] == 201
    try:
        differences = _compare(api, namespace)
    finally:
        api.request("DELETE", f"/api/v1/namespaces/{namespace}")
    assert not differences, "\n".join(differences)


def _compare(api: ApiClient, namespace: str) -> list[str]:
    """What differs; a schedule in which something did goes on no further."""
    models = [Model(seed, namespace) for seed in range(SCHEDULES)]
    schedules = [draw_requests(seed, REQUESTS) for seed in range(SCHEDULES)]
    modelled = [Rehearsal(model.ask, namespace, f"s{at}") for at, model in enumerate(models)]
    real = [Rehearsal(api.request, namespace, f"s{at}") for at in range(SCHEDULES)]
    differences: dict[int, str] = {}
    for step in range(len(schedules[0])):
        # All schedules side by side: the garbage collector works while the others go on.
        going_on = [at for at in range(SCHEDULES) if at not in differences]
        for at in going_on:
            request = schedules[at][step]
            ours, theirs = modelled[at].perform(request), real[at].perform(request)
            if (_kind(ours), ours[1]) != (_kind(theirs), theirs[1]):
                differences[at] = f"the model answers {ours}, the API server {theirs}"
            models[at].settle()
        pairs = {at: (modelled[at], real[at]) for at in going_on if at not in differences}
        differences |= _settled_otherwise(pairs)
        for at in going_on:
            if at in differences:
                requests = "\n  ".join(str(request) for request in schedules[at][: step + 1])
                differences[at] = f"schedule {at}:\n  {requests}\n  {differences[at]}"
    for model in models:
        model.world.close()
    return list(differences.values())


def _settled_otherwise(pairs: dict[int, tuple[Rehearsal, Rehearsal]]) -> dict[int, str]:
    """Where both sides don't come to the same state, and how that differs."""
    left = {at: _differences(*pair) for at, pair in pairs.items()}

    def same() -> bool:
        nonlocal left
        left = {at: _differences(*pairs[at]) for at, found in left.items() if found}
        return not any(left.values())

    with contextlib.suppress(AssertionError):
        eventually(same, SETTLE_SECONDS)
    return {at: found for at, found in left.items() if found}


def _differences(modelled: Rehearsal, real: Rehearsal) -> str:
    wanted, found = modelled.show(), real.show()
    return "\n  ".join(
        f"{role}: the model shows {wanted[role]}, the API server {found[role]}"
        for role in wanted
        if wanted[role] != found[role]
    )


def _kind(answer: tuple[int, str]) -> int:
    """Success, or the status of the error."""
    return 200 if answer[0] < 300 else answer[0]
