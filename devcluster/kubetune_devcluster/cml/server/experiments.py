"""Experiments and their runs."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubetune_devcluster.cml.server.calls import Answer, Call
from kubetune_devcluster.cml.server.clock import moment, text
from kubetune_devcluster.cml.server.errors import RefusalError, exists, invalid, not_found
from kubetune_devcluster.cml.server.records import USER
from kubetune_devcluster.cml.server.tracking import local_path, stored_name

_CODES = {
    "RESOURCE_DOES_NOT_EXIST": 5,
    "RESOURCE_ALREADY_EXISTS": 6,
    "INVALID_PARAMETER_VALUE": 3,
    "INVALID_STATE": 9,
    "BAD_REQUEST": 3,
}
_PREFIX = "EXPERIMENT_RUN_"


@contextmanager
def answered() -> Generator[None]:
    """MLflow's errors as the API's."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RefusalError(_CODES.get(str(error.error_code), 13), error.message) from error


def list_experiments(call: Call) -> Answer:
    return call.page([_experiment(call, one) for one in _experiments(call)], "experiments")


def get_experiment(call: Call) -> Answer:
    return _experiment(call, _one(call))


def create_experiment(call: Call) -> Answer:
    from mlflow.entities import ExperimentTag

    name = call.body["name"]
    if any(_name(one) == name for one in _experiments(call)):
        raise exists(f"an experiment with the name {name} exists already")
    tags = [ExperimentTag(tag["key"], tag["value"]) for tag in call.body.get("tags", [])]
    store = call.workspace.tracking.store
    with answered():
        made = store.create_experiment(
            stored_name(call.project_id, name), call.body.get("artifact_location") or None, tags
        )
        return _experiment(call, store.get_experiment(made))


def list_experiment_runs(call: Call) -> Answer:
    experiment, store = _one(call), call.workspace.tracking.store
    call.workspace.tracking.catch_up()
    runs: list[Any] = []
    token: str | None = None
    while True:
        found = store.search_runs([experiment.experiment_id], "", 1, 1000, None, token)
        runs += found
        token = found.token
        if not token:
            break
    runs.sort(key=lambda run: run.info.start_time)
    return call.page([_run_shown(call, run) for run in runs], "experiment_runs")


def get_experiment_run(call: Call) -> Answer:
    return _run_shown(call, _run(call))


def create_experiment_run(call: Call) -> Answer:
    experiment, store = _one(call), call.workspace.tracking.store
    start = int(call.workspace.clock.now() * 1000)
    with answered():
        run = store.create_run(experiment.experiment_id, USER["username"], start, [], "")
        _log(call, run.info.run_id)
        return _run_shown(call, store.get_run(run.info.run_id))


def update_experiment_run(call: Call) -> Answer:
    from mlflow.entities import RunStatus

    run, body = _run(call), call.body
    if fixed := set(body) - {"status", "end_time", "id", "experiment_id"}:
        raise invalid(f"{', '.join(sorted(fixed))} of an experiment run can't be changed")
    status = body.get("status", "").removeprefix(_PREFIX) or run.info.status
    end = run.info.end_time
    if "end_time" in body:
        try:
            end = int(moment(body["end_time"]) * 1000)
        except ValueError as error:
            raise invalid(f"end_time is no time: {body['end_time']}") from error
    store = call.workspace.tracking.store
    with answered():
        store.update_run_info(run.info.run_id, RunStatus.from_string(status), end, None)
        return _run_shown(call, store.get_run(run.info.run_id))


def log_experiment_run_batch(call: Call) -> Answer:
    run = _run(call)
    with answered():
        _log(call, run.info.run_id)
    return {}


def get_experiment_run_metrics(call: Call) -> Answer:
    run = _run(call)
    with answered():
        history = call.workspace.tracking.store.get_metric_history(
            run.info.run_id, call.path["metric_key"]
        )
    rows = sorted(history, key=lambda metric: (metric.step, metric.timestamp))
    return {"metrics": [metric_shown(metric) for metric in rows]}


def metric_shown(metric: Any) -> dict[str, Any]:
    """A metric as the API answers; JSON has no number for what isn't finite."""
    value: Any = metric.value
    return {
        "key": metric.key,
        "value": value if math.isfinite(value) else str(value).replace("nan", "NaN"),
        "timestamp": text(metric.timestamp / 1000),
        "step": str(metric.step),
    }


def pairs(values: dict[str, str]) -> list[dict[str, str]]:
    """Tags and parameters as the API answers."""
    return [{"key": key, "value": value} for key, value in sorted(values.items())]


def _experiments(call: Call) -> Sequence[Any]:
    call.workspace.project(call.project_id)
    tracking = call.workspace.tracking
    tracking.catch_up()
    found: list[Any] = []
    token: str | None = None
    while True:
        page = tracking.store.search_experiments(max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    mine = [one for one in found if one.name.startswith(stored_name(call.project_id, ""))]
    return sorted(mine, key=lambda one: int(one.experiment_id))


def _one(call: Call) -> Any:
    wanted = call.path["experiment_id"]
    for one in _experiments(call):
        if one.experiment_id == wanted:
            return one
    raise not_found("experiment", wanted)


def _name(experiment: Any) -> str:
    return experiment.name.partition("/")[2]


def _run(call: Call) -> Any:
    from mlflow.exceptions import MlflowException

    experiment, run_id = _one(call), call.path["run_id"]
    try:
        run = call.workspace.tracking.store.get_run(run_id)
    except MlflowException as error:
        raise not_found("experiment run", run_id) from error
    if run.info.experiment_id != experiment.experiment_id:
        raise not_found("experiment run", run_id)
    return run


def _log(call: Call, run_id: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    body, now = call.body, int(call.workspace.clock.now() * 1000)
    metrics: list[Any] = []
    for one in body.get("metrics", []):
        if not one.get("key"):
            raise invalid("a metric has no key")
        try:
            at = int(moment(one["timestamp"]) * 1000) if one.get("timestamp") else now
        except ValueError as error:
            raise invalid(f"timestamp of metric {one['key']} is no time") from error
        metrics.append(Metric(one["key"], one.get("value", 0.0), at, int(one.get("step", 0))))
    params = [Param(one["key"], one.get("value", "")) for one in body.get("params", [])]
    tags = [RunTag(one["key"], one.get("value", "")) for one in body.get("tags", [])]
    call.workspace.tracking.store.log_batch(run_id, metrics=metrics, params=params, tags=tags)


def _experiment(call: Call, experiment: Any) -> dict[str, Any]:
    return {
        "id": experiment.experiment_id,
        "project_id": call.project_id,
        "name": _name(experiment),
        "artifact_location": experiment.artifact_location,
        "tags": pairs(experiment.tags),
        "lifecycle_stage": experiment.lifecycle_stage,
        "user": USER,
        "created_at": _time(experiment.creation_time),
        "updated_at": _time(experiment.last_update_time),
    }


def _run_shown(call: Call, run: Any) -> dict[str, Any]:
    info, data = run.info, run.data
    lost = call.workspace.behaviour.lose_run_tags
    return {
        "id": info.run_id,
        "experiment_id": info.experiment_id,
        "user": USER,
        "status": f"{_PREFIX}{info.status}",
        "start_time": _time(info.start_time),
        "end_time": _time(info.end_time),
        "artifact_uri": info.artifact_uri,
        "data": {
            "metrics": [metric_shown(metric) for metric in data._metric_objs],
            "params": pairs(data.params),
            "tags": [] if lost else pairs(data.tags),
            "files": _files(local_path(info.artifact_uri)),
            "registered_model_metadata": [],
        },
    }


def _files(folder: Path) -> list[dict[str, Any]]:
    if not folder.is_dir():
        return []
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "is_dir": path.is_dir(),
            "file_size": str(0 if path.is_dir() else path.stat().st_size),
        }
        for path in sorted(folder.rglob("*"))
    ]


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return text(milliseconds / 1000)
