"""What MLflow answers, as values of ours, and conditions of its searches."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.tracking.base import RegisteredVersion, TrackedRun, TrackingError
from kubetune.tracking.values import metric_value


def run_of(item: JsonObject) -> TrackedRun:
    """A run as the tracker has it."""
    info, data = item["info"], item.get("data", {})
    metrics = data.get("metrics", ())
    tags = {tag["key"]: tag.get("value", "") for tag in data.get("tags", ())}
    return TrackedRun(
        run_key=tags.get(plan.TAG_RUN_KEY, ""),
        experiment_id=info["experiment_id"],
        run_id=info["run_id"],
        status=info["status"],
        tags=tags,
        metrics={metric["key"]: metric_value(metric.get("value")) for metric in metrics},
        updated_ms=max((int(metric.get("timestamp", 0)) for metric in metrics), default=0),
    )


def version_of(item: JsonObject) -> RegisteredVersion:
    """A version of a registered model as the tracker has it."""
    return RegisteredVersion(
        name=item["name"],
        version=int(item["version"]),
        run_id=item.get("run_id", ""),
        source=item.get("source", ""),
        status=item.get("status", "READY"),
        tags={tag["key"]: tag.get("value", "") for tag in item.get("tags", ())},
        aliases=tuple(item.get("aliases", ())),
    )


def tag_is(key: str, value: str) -> str:
    """A condition of a search."""
    return f"tags.`{key}` = {quoted(value)}"


def quoted(value: str) -> str:
    """A text in MLflow's filter language, which knows no escapes."""
    for mark in ("'", '"'):
        if mark not in value:
            return f"{mark}{value}{mark}"
    raise TrackingError(f"{value!r} can't be searched for in MLflow: it has both kinds of quotes")
