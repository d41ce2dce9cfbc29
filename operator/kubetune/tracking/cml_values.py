"""Experiment runs and registered versions of CML as a tracker shows them.

The API leaves out what is zero or empty, so every field may be missing or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubetune.api import plan
from kubetune.tracking.base import RegisteredVersion, TrackedRun
from kubetune.tracking.values import metric_value

JsonObject = dict[str, Any]

READY = "READY"
PENDING = "PENDING_REGISTRATION"
FAILED = "FAILED_REGISTRATION"
DELETED = "DELETED"
# No list of the registry's words is published.
_READY_WORDS = frozenset(
    {"", "READY", "REGISTERED", "COMPLETE", "COMPLETED", "SUCCESS", "SUCCEEDED", "AVAILABLE"}
)
_LAST = datetime.max.replace(tzinfo=UTC)


def run_status(text: str | None) -> str:
    """MLflow's word for the status of an experiment run; a new one stays as it is."""
    return (text or "UNKNOWN").upper().removeprefix("EXPERIMENT_RUN_")


def registry_status(text: str | None) -> str:
    """READY, PENDING, FAILED or DELETED; a word of another kind stays as it is."""
    word = (text or "").upper().removeprefix("MODEL_VERSION_")
    if word in _READY_WORDS:
        return READY
    if "DELET" in word:
        return DELETED
    if "FAIL" in word or "ERROR" in word:
        return FAILED
    if "PENDING" in word or word.endswith("ING"):
        return PENDING
    return word


def tags_of(items: Iterable[JsonObject] | None) -> dict[str, str]:
    """A list of keys and values as a dict; of a key that repeats the last value."""
    return {str(item["key"]): str(item.get("value") or "") for item in items or ()}


def run_tags(run: JsonObject) -> dict[str, str]:
    """The tags of an experiment run."""
    return tags_of((run.get("data") or {}).get("tags"))


def tag_list(tags: Mapping[str, str]) -> list[JsonObject]:
    """The opposite of ``tags_of``."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def tracked_run(item: JsonObject, experiment_id: str) -> TrackedRun:
    """A run out of a listing of the experiment."""
    data: JsonObject = item.get("data") or {}
    tags = run_tags(item)
    newest: dict[str, tuple[int, int, float]] = {}
    for metric in data.get("metrics") or ():
        key, order = str(metric["key"]), (_step(metric.get("step")), _ms(metric.get("timestamp")))
        if key not in newest or order >= newest[key][:2]:
            newest[key] = (*order, metric_value(metric.get("value")))
    return TrackedRun(
        run_key=tags.get(plan.TAG_RUN_KEY, ""),
        experiment_id=str(item.get("experiment_id") or experiment_id),
        run_id=str(item["id"]),
        status=run_status(item.get("status")),
        tags=tags,
        metrics={key: value for key, (_, _, value) in newest.items()},
        updated_ms=max((ms for _, ms, _ in newest.values()), default=0),
    )


def run_age(item: JsonObject) -> tuple[datetime, str]:
    """Sorts runs from the oldest to the newest."""
    return _time(item.get("start_time")) or _LAST, str(item["id"])


@dataclass(frozen=True)
class CmlVersion:
    """A version of a registered model."""

    model_id: str
    version_id: str
    name: str
    number: int
    status: str
    """As ``registry_status``."""
    project_id: str = ""
    experiment_id: str = ""
    run_id: str = ""
    """Empty when it was made from something else."""
    notes: str = ""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    created: datetime = _LAST

    @property
    def age(self) -> tuple[datetime, int, str]:
        """Sorts versions from the oldest to the newest, also of several models of one name."""
        return self.created, self.number, self.version_id

    def registered(self, source: str = "") -> RegisteredVersion:
        """The version as trackers show it. The registry doesn't tell the source."""
        path = self.tags.get(plan.TAG_MODEL_PATH)
        known = f"runs:/{self.run_id}/{path}" if path else f"models:/{self.name}/{self.number}"
        return RegisteredVersion(
            name=self.name,
            version=self.number,
            run_id=self.run_id,
            source=source or known,
            status=self.status,
            tags=dict(self.tags),
        )


def cml_version(item: JsonObject, model_id: str, name: str) -> CmlVersion:
    """A version out of a listing of its model."""
    metadata: JsonObject = item.get("model_version_metadata") or {}
    mlflow: JsonObject = metadata.get("mlflow_metadata") or {}
    return CmlVersion(
        model_id=str(item.get("model_id") or model_id),
        version_id=str(item["model_version_id"]),
        name=name,
        number=int(item.get("number") or 0),
        status=registry_status(item.get("status")),
        project_id=str(metadata.get("project_id") or ""),
        experiment_id=str(mlflow.get("experiment_id") or ""),
        run_id=str(mlflow.get("run_id") or ""),
        notes=str(item.get("notes") or ""),
        # The run's own come first: what was given with the version is newer.
        tags=tags_of(mlflow.get("tags"))
        | tags_of(metadata.get("tags"))
        | tags_of(item.get("tags")),
        created=_time(item.get("created_at")) or _LAST,
    )


def _step(value: Any) -> int:
    try:
        return int(value or 0)
    except ValueError:
        return 0


def _ms(value: Any) -> int:
    """A metric's time in milliseconds, whether it is a number, digits or a time."""
    if isinstance(value, str) and not value.isdigit():
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return 0
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return int(value or 0)


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None
