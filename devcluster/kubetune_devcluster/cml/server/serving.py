"""Models, their builds and deployments."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from kubetune_devcluster.cml.server.calls import Answer, Call
from kubetune_devcluster.cml.server.clock import text
from kubetune_devcluster.cml.server.errors import invalid, not_found, precondition
from kubetune_devcluster.cml.server.projects import inside
from kubetune_devcluster.cml.server.records import USER, Served
from kubetune_devcluster.cml.server.workspace import Workspace


def list_models(call: Call) -> Answer:
    return _list(call, "model", "models", (call.project_id,))


def get_model(call: Call) -> Answer:
    return _shown(call, _model(call))


def create_model(call: Call) -> Answer:
    body, workspace = call.body, call.workspace
    workspace.project(call.project_id)
    if any(one.fields["name"] == body["name"] for one in _all(call, "model", (call.project_id,))):
        raise invalid(f"project already has a model with that name: {body['name']}")
    label = str(body.get("accelerator_label_id", "0"))
    workspace.catalog.check_gpus(0, label)
    fields = {
        "name": body["name"],
        "description": body.get("description", ""),
        "access_key": uuid.uuid4().hex,
        "auth_enabled": not body.get("disable_authentication", False),
        "creator": USER,
        "project": workspace.project(call.project_id).short(),
        "registered_model_id": body.get("registered_model_id", ""),
        "visibility": body.get("visibility", "private"),
        "default_resources": {"cpu_millicores": "1000", "memory_mb": "2048", "nvidia_gpus": "0"},
        "default_replication_policy": {"type": "fixed", "num_replicas": "1"},
        "run_as": 0,
        "accelerator_label_id": label,
        "deletion_status": "",
    }
    model = _add(call, "model", (call.project_id,), fields)
    if body.get("auto_build_model"):
        build = _build(call, model, body.get("auto_build_config", {}))
        if body.get("auto_deploy_model"):
            _deploy(call, model, build, body.get("auto_deployment_config", {}))
    return _shown(call, model)


def delete_model(call: Call) -> Answer:
    _remove(call, _model(call))
    return {}


def list_model_builds(call: Call) -> Answer:
    model = _model(call)
    return _list(call, "build", "model_builds", (call.project_id, model.id))


def get_model_build(call: Call) -> Answer:
    return _shown(call, _one_build(call))


def create_model_build(call: Call) -> Answer:
    model = _model(call)
    build = _build(call, model, call.body)
    if call.body.get("auto_deploy_model"):
        _deploy(call, model, build, call.body.get("auto_deployment_config", {}))
    return _shown(call, build)


def delete_model_build(call: Call) -> Answer:
    _remove(call, _one_build(call))
    return {}


def list_model_deployments(call: Call) -> Answer:
    build = _one_build(call)
    parents = (call.project_id, call.path["model_id"], build.id)
    return _list(call, "deployment", "model_deployments", parents)


def get_model_deployment(call: Call) -> Answer:
    return _shown(call, _deployment(call))


def create_model_deployment(call: Call) -> Answer:
    build = _one_build(call)
    if (status := _status(call.workspace, build)) != "built":
        raise precondition(f"model build {build.id} is {status}, not built")
    return _shown(call, _deploy(call, _model(call), build, call.body))


def stop_model_deployment(call: Call) -> Answer:
    deployment = _deployment(call)
    if deployment.stopped is None:
        deployment.stopped = call.workspace.clock.now()
    return _shown(call, deployment)


def restart_model_deployment(call: Call) -> Answer:
    deployment = _deployment(call)
    deployment.stopped, deployment.started = None, call.workspace.clock.now()
    return _shown(call, deployment)


def _build(call: Call, model: Served, body: Mapping[str, Any]) -> Served:
    call.workspace.catalog.check_runtime(body.get("runtime_identifier", ""))
    call.workspace.catalog.check_addons(body.get("runtime_addon_identifiers", []))
    if not body.get("registered_model_version_id"):
        _, path = inside(call.workspace.files(call.project_id), body.get("file_path", ""))
        if not path.is_file():
            raise invalid(f"file_path {body.get('file_path', '')} does not exist in the project")
        if not body.get("function_name"):
            raise invalid("function_name is required")
    names = ("comment", "file_path", "function_name", "kernel", "runtime_identifier",
             "registered_model_version_id")  # fmt: skip
    fields = {name: body.get(name, "") for name in names} | {
        "model_id": model.id,
        "creator": USER,
        "engine_image": "",
        "runtime_addon_identifiers": body.get("runtime_addon_identifiers", []),
        "deletion_status": "",
    }
    return _add(call, "build", (call.project_id, model.id), fields)


def _deploy(call: Call, model: Served, build: Served, body: Mapping[str, Any]) -> Served:
    gpus = body.get("nvidia_gpus", 0)
    call.workspace.catalog.check_gpus(gpus, model.fields["accelerator_label_id"])
    fields = {
        "project_id": call.project_id,
        "model_id": model.id,
        "build_id": build.id,
        "cpu": body.get("cpu", 1),
        "memory": body.get("memory", 2),
        "nvidia_gpu": gpus,
        "replicas": body.get("replicas", 1),
        "environment": json.dumps(body.get("environment", {})),
        "deployer": USER,
    }
    return _add(call, "deployment", (call.project_id, model.id, build.id), fields)


def _add(call: Call, kind: str, parents: tuple[str, ...], fields: dict[str, Any]) -> Served:
    now = call.workspace.clock.now()
    served = Served(str(uuid.uuid4()), kind, parents, now, fields, started=now)
    call.workspace.served[served.id] = served
    return served


def _all(call: Call, kind: str, parents: tuple[str, ...]) -> list[Served]:
    call.workspace.project(call.project_id)
    things = call.workspace.served.values()
    return [one for one in things if one.kind == kind and one.parents == parents]


def _list(call: Call, kind: str, name: str, parents: tuple[str, ...]) -> Answer:
    return call.page([_shown(call, one) for one in _all(call, kind, parents)], name)


def _one(call: Call, kind: str, found: str, parents: tuple[str, ...]) -> Served:
    call.workspace.project(call.project_id)
    served = call.workspace.served.get(found)
    if served is None or served.kind != kind or served.parents != parents:
        raise not_found(kind if kind == "model" else f"model {kind}", found)
    return served


def _model(call: Call) -> Served:
    return _one(call, "model", call.path["model_id"], (call.project_id,))


def _one_build(call: Call) -> Served:
    model = _model(call)
    return _one(call, "build", call.path["build_id"], (call.project_id, model.id))


def _deployment(call: Call) -> Served:
    build = _one_build(call)
    parents = (call.project_id, call.path["model_id"], build.id)
    return _one(call, "deployment", call.path["deployment_id"], parents)


def _remove(call: Call, served: Served) -> None:
    things = call.workspace.served
    for one in [one for one in things.values() if served.id in (one.id, *one.parents)]:
        del things[one.id]


def _status(workspace: Workspace, served: Served) -> str:
    behaviour, now = workspace.behaviour, workspace.clock.now()
    if served.kind == "build":
        if now >= served.created + behaviour.build_seconds:
            return "build failed" if behaviour.build_fails else "built"
        return "queued"
    if served.stopped is not None:
        return "stopped"
    build = workspace.served.get(served.parents[-1])
    if build is None or _status(workspace, build) == "build failed":
        return "failed"
    ready = max(served.started, build.created + behaviour.build_seconds) + behaviour.deploy_seconds
    if now < ready:
        return "deploying"
    return "failed" if behaviour.deployment_fails else "deployed"


def _shown(call: Call, served: Served) -> dict[str, Any]:
    crn = f"crn:cdp:ml:us-west-1:workspace:model:{served.id}"
    times = {"created_at": text(served.created), "updated_at": text(served.started)}
    row = {"id": served.id, "crn": crn, **served.fields, **times}
    if served.kind == "model":
        return row
    row["status"] = _status(call.workspace, served)
    if served.kind == "build":
        built = served.created + call.workspace.behaviour.build_seconds
        row["built_at"] = text(built) if row["status"] == "built" else None
    else:
        row["stopped_at"] = text(served.stopped)
    return row
