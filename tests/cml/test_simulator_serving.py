"""Models, builds and deployments of the simulator."""

import json
from typing import Any

import pytest
from kubetune_devcluster.cml.server import ManualClock, Simulator

from tests.cml.test_simulator import refused


def build_body(simulator: Simulator, **fields: Any) -> dict[str, Any]:
    """A build that is accepted."""
    simulator.write("serve.py", "")
    runtime = simulator.runtime_identifier()
    return {
        "file_path": "serve.py",
        "function_name": "predict",
        "runtime_identifier": runtime,
        "comment": "hash-1",
        **fields,
    }


def test_a_model_is_built_and_deployed(
    client: Any, simulator: Simulator, clock: ManualClock
) -> None:
    project = simulator.project.id
    model = client.create_model({"name": "m", "disable_authentication": True}, project)
    assert (model.auth_enabled, bool(model.access_key)) == (False, True)
    message = refused(lambda: client.create_model({"name": "m"}, project), 400, 3)
    assert "already has a model with that name" in message
    build = client.create_model_build(build_body(simulator), project, model.id)
    assert build.status == "queued"
    place = (project, model.id, build.id)
    refused(lambda: client.create_model_deployment({}, *place), 400, 9)
    clock.advance(2)
    assert client.get_model_build(*place).status == "built"
    builds = client.list_model_builds(project, model.id, search_filter='{"comment": "hash"}')
    assert [one.id for one in builds.model_builds] == [build.id]
    refused(lambda: client.create_model_deployment({"nvidia_gpu": 1}, *place), 400, 3)
    refused(lambda: client.create_model_deployment({"nvidia_gpus": 9}, *place), 400, 3)
    body = {"nvidia_gpus": 1, "environment": {"A": "1"}}
    deployment = client.create_model_deployment(body, *place)
    assert (deployment.status, deployment.nvidia_gpu) == ("deploying", 1)
    assert json.loads(deployment.environment) == {"A": "1"}
    clock.advance(2)
    assert client.get_model_deployment(*place, deployment.id).status == "deployed"
    client.stop_model_deployment(*place, deployment.id)
    assert client.get_model_deployment(*place, deployment.id).status == "stopped"
    client.restart_model_deployment(*place, deployment.id)
    (again,) = client.list_model_deployments(*place).model_deployments
    assert again.status == "deploying"
    client.delete_model(project, model.id)
    refused(lambda: client.get_model_deployment(*place, deployment.id), 404, 5)
    assert client.list_models(project).models == []


@pytest.mark.parametrize(
    ("switch", "build", "deployment"),
    [("build_fails", "build failed", "failed"), ("deployment_fails", "built", "failed")],
)
def test_serving_that_fails(
    client: Any, simulator: Simulator, clock: ManualClock, switch: str, build: str, deployment: str
) -> None:
    setattr(simulator.behaviour, switch, True)
    project = simulator.project.id
    body = {
        "name": "m",
        "auto_build_model": True,
        "auto_build_config": build_body(simulator),
        "auto_deploy_model": True,
    }
    model = client.create_model(body, project)
    clock.advance(10)
    (made,) = client.list_model_builds(project, model.id).model_builds
    assert made.status == build
    (served,) = client.list_model_deployments(project, model.id, made.id).model_deployments
    assert served.status == deployment


@pytest.mark.parametrize(
    "fields", [{"file_path": "none.py"}, {"function_name": ""}, {"runtime_identifier": "none"}]
)
def test_builds_that_can_not_be_are_refused(
    client: Any, simulator: Simulator, fields: dict[str, str]
) -> None:
    project = simulator.project.id
    model = client.create_model({"name": "m"}, project)
    body = build_body(simulator, **fields)
    refused(lambda: client.create_model_build(body, project, model.id), 400, 3)
