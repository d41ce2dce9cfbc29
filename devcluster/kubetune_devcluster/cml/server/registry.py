"""The model registry."""

from __future__ import annotations

import uuid
from typing import Any

from kubetune_devcluster.cml.server.calls import Answer, Call
from kubetune_devcluster.cml.server.clock import text
from kubetune_devcluster.cml.server.errors import invalid, not_found
from kubetune_devcluster.cml.server.experiments import answered, metric_shown, pairs
from kubetune_devcluster.cml.server.projects import inside
from kubetune_devcluster.cml.server.records import USER
from kubetune_devcluster.cml.server.tracking import local_path, stored_name

_VISIBILITY = "cml.visibility"
_PROJECT = "cml.project"
_IDS = uuid.UUID("6b6f62ab-1d0e-4f0c-9a1c-5d4c1f6f0d5e")


def model_id(name: str) -> str:
    """The id of a model; workloads may have made it, so that the name must tell."""
    return str(uuid.uuid5(_IDS, name))


def version_id(name: str, number: int) -> str:
    """The id of a version."""
    return str(uuid.uuid5(_IDS, f"{name}/{number}"))


def list_registered_models(call: Call) -> Answer:
    call.workspace.tracking.catch_up()
    rows = [_details(call, model) | {"model_name": model.name, "creator_id": USER["username"]}
            for model in _models(call)]  # fmt: skip
    return call.page(rows, "models")


def get_registered_model(call: Call) -> Answer:
    model = _model(call)
    rows = [
        _version(call, one) | {"version_number": str(one.version)}
        for one in _versions(call, model.name)
    ]
    return _details(call, model) | call.page(rows, "model_versions")


def create_registered_model(call: Call) -> Answer:
    """A version made of a run's folder; never twice the same, also for the same request."""
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
    from mlflow.exceptions import MlflowException

    body, tracking = call.body, call.workspace.tracking
    call.workspace.project(body["project_id"])
    tracking.catch_up()
    store, registry = tracking.store, tracking.registry
    try:
        run = store.get_run(body["run_id"])
        experiment = store.get_experiment(body["experiment_id"])
    except MlflowException as error:
        raise not_found("experiment run", body["run_id"]) from error
    mine = experiment.name.startswith(stored_name(body["project_id"], ""))
    if not mine or run.info.experiment_id != body["experiment_id"]:
        raise not_found("experiment run", body["run_id"])
    _, source = inside(local_path(run.info.artifact_uri), body["model_path"])
    if not (source / "MLmodel").is_file():
        raise invalid(f"model_path {body['model_path']} of the run holds no MLflow model")
    name: str = body["model_name"]
    with answered():
        if not any(model.name == name for model in _models(call)):
            visibility = body.get("visibility", "PRIVATE")
            registry.create_registered_model(
                name, [RegisteredModelTag(_VISIBILITY, visibility)], body.get("description", "")
            )
        tags = [ModelVersionTag(tag["key"], tag.get("value", "")) for tag in body.get("tags", [])]
        tags.append(ModelVersionTag(_PROJECT, body["project_id"]))
        copy = tracking.copy_artifacts(source)
        version = registry.create_model_version(
            name, copy.resolve().as_uri(), body["run_id"], tags, None, body.get("notes", "")
        )
        model = registry.get_registered_model(name)
    return _details(call, model) | {"model_versions": [_version(call, version)]}


def update_registered_model(call: Call) -> Answer:
    from mlflow.entities.model_registry import RegisteredModelTag

    model, registry = _by_id(call, call.body["model_id"]), call.workspace.tracking.registry
    if "description" in call.body:
        registry.update_registered_model(model.name, call.body["description"])
    if "visibility" in call.body:
        tag = RegisteredModelTag(_VISIBILITY, call.body["visibility"])
        registry.set_registered_model_tag(model.name, tag)
    return _details(call, _by_id(call, call.body["model_id"]))


def update_registered_model_version(call: Call) -> Answer:
    from mlflow.entities.model_registry import ModelVersionTag

    model, registry = _model(call), call.workspace.tracking.registry
    wanted = call.body["model_version_id"]
    version = _version_by_id(call, model.name, wanted)
    if "notes" in call.body:
        registry.update_model_version(model.name, version.version, call.body["notes"])
    for tag in call.body.get("tags", []):
        made = ModelVersionTag(tag["key"], tag.get("value", ""))
        registry.set_model_version_tag(model.name, version.version, made)
    return _version(call, _version_by_id(call, model.name, wanted))


def delete_registered_model(call: Call) -> Answer:
    call.workspace.tracking.registry.delete_registered_model(_model(call).name)
    return {}


def get_registered_model_version(call: Call) -> Answer:
    return _version(call, _version_by_id(call, _model(call).name, call.path["version_id"]))


def delete_registered_model_version(call: Call) -> Answer:
    version = _version_by_id(call, _model(call).name, call.path["version_id"])
    call.workspace.tracking.registry.delete_model_version(version.name, version.version)
    return {}


def _models(call: Call) -> list[Any]:
    registry, found = call.workspace.tracking.registry, list[Any]()
    token: str | None = None
    while True:
        page = registry.search_registered_models(max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda model: (model.creation_timestamp, model.name))


def _model(call: Call) -> Any:
    return _by_id(call, call.path["model_id"])


def _by_id(call: Call, wanted: str) -> Any:
    for model in _models(call):
        if model_id(model.name) == wanted:
            return model
    raise not_found("registered model", wanted)


def _versions(call: Call, name: str) -> list[Any]:
    quote = '"' if "'" in name else "'"
    registry, found = call.workspace.tracking.registry, list[Any]()
    token: str | None = None
    while True:
        page = registry.search_model_versions(
            f"name = {quote}{name}{quote}", max_results=1000, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def _version_by_id(call: Call, name: str, wanted: str) -> Any:
    for version in _versions(call, name):
        if version_id(name, int(version.version)) == wanted:
            return version
    raise not_found("registered model version", wanted)


def _details(call: Call, model: Any) -> dict[str, Any]:
    return {
        "model_id": model_id(model.name),
        "name": model.name,
        "description": model.description or "",
        "owner": USER,
        "permission": "CAN_MANAGE",
        "visibility": model.tags.get(_VISIBILITY, "PRIVATE"),
        "count": len(_versions(call, model.name)),
        "created_at": text(model.creation_timestamp / 1000),
        "updated_at": text(model.last_updated_timestamp / 1000),
    }


def _version(call: Call, version: Any) -> dict[str, Any]:
    number = int(version.version)
    tags = {key: value for key, value in version.tags.items() if not key.startswith("cml.")}
    shown = [] if call.workspace.behaviour.lose_tags else pairs(tags)
    return {
        "model_id": model_id(version.name),
        "model_version_id": version_id(version.name, number),
        "version_name": version.name,
        "number": number,
        "notes": version.description or "",
        "user": USER,
        "status": "READY",
        "tags": shown,
        "created_at": text(version.creation_timestamp / 1000),
        "updated_at": text(version.last_updated_timestamp / 1000),
        "model_version_metadata": {
            "mlops_type": "MLFLOW",
            "workspace_url": call.workspace.url,
            "project_id": version.tags.get(_PROJECT, ""),
            "owner": USER,
            "tags": shown,
            "mlflow_metadata": _mlflow(call, version.run_id),
        },
    }


def _mlflow(call: Call, run_id: str | None) -> dict[str, Any]:
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        run = call.workspace.tracking.store.get_run(run_id)
    except MlflowException:
        return {"run_id": run_id}
    return {
        "experiment_id": run.info.experiment_id,
        "run_id": run_id,
        "metrics": [metric_shown(metric) for metric in run.data._metric_objs],
        "params": pairs(run.data.params),
        "tags": pairs(run.data.tags),
    }
