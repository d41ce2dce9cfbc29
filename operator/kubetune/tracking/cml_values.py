"""Experiment runs and registered versions of CML as a tracker shows them.

The API leaves out what is zero or empty, so every field may be missing or None.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kubetune.api.run import plan
from kubetune.clients.cml_models import (
    ExperimentRun,
    ExperimentRunData,
    ModelVersionMetadata,
    RegisteredModelVersion,
    Tag,
)
from kubetune.tracking.base import RegisteredVersion, TrackedRun
from kubetune.tracking.values import metric_value

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


def tags_of(items: Iterable[Tag]) -> dict[str, str]:
    """A list of keys and values as a dict; of a key that repeats the last value."""
    return {item.key: item.value for item in items}


def run_tags(run: ExperimentRun) -> dict[str, str]:
    """The tags of an experiment run."""
    return tags_of(run.data.tags if run.data else ())


def tag_list(tags: Mapping[str, str]) -> list[Tag]:
    """The opposite of ``tags_of``."""
    return [Tag(key=key, value=value) for key, value in tags.items()]


LONGEST_TAG = 4000


def version_tag(key: str, name: str) -> str:
    """The tag of a run that says something of the version that was made of it: a run may have
    versions of several models."""
    return f"{key}.{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def pieces(key: str, value: str) -> dict[str, str]:
    """Tags that hold a long value together: nobody knows how long a tag of CML may be, and those
    that hold outcomes are.
    """
    parts = range(0, len(value), LONGEST_TAG)
    return {f"{key}.{n}": value[at : at + LONGEST_TAG] for n, at in enumerate(parts)}


def tags_about(tags: Mapping[str, str], name: str) -> dict[str, str]:
    """What tags of a run say of the version of this name that was made of it, long ones whole."""
    end = version_tag("", name)
    found: dict[str, str] = {}
    for tag, value in tags.items():
        if tag.endswith(end):
            found[tag[: -len(end)]] = value
        elif tag.endswith(f"{end}.0"):
            key = tag.removesuffix(".0")
            found[key[: -len(end)]] = _joined(key, tags)
    return found


def _joined(key: str, tags: Mapping[str, str]) -> str:
    """The opposite of ``pieces``."""
    parts: list[str] = []
    while (part := tags.get(f"{key}.{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)


def tracked_run(item: ExperimentRun, experiment_id: str) -> TrackedRun:
    """A run out of a listing of the experiment."""
    data = item.data or ExperimentRunData()
    tags = run_tags(item)
    newest: dict[str, tuple[int, int, float]] = {}
    for metric in data.metrics:
        order = _step(metric.step), _ms(metric.timestamp)
        if metric.key not in newest or order >= newest[metric.key][:2]:
            newest[metric.key] = (*order, metric_value(metric.value))
    return TrackedRun(
        run_key=tags.get(plan.TAG_RUN_KEY, ""),
        experiment_id=item.experiment_id or experiment_id,
        run_id=item.id,
        status=run_status(item.status),
        tags=tags,
        metrics={key: value for key, (_, _, value) in newest.items()},
        updated_ms=max((ms for _, ms, _ in newest.values()), default=0),
    )


def run_age(item: ExperimentRun) -> tuple[datetime, str]:
    """Sorts runs from the oldest to the newest."""
    return item.start_time or _LAST, item.id


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


def cml_version(item: RegisteredModelVersion, model_id: str, name: str) -> CmlVersion:
    """A version out of a listing of its model."""
    metadata = item.model_version_metadata or ModelVersionMetadata()
    mlflow = metadata.mlflow_metadata
    return CmlVersion(
        model_id=item.model_id or model_id,
        version_id=item.model_version_id,
        name=name,
        number=item.number,
        status=registry_status(item.status),
        project_id=metadata.project_id,
        experiment_id=mlflow.experiment_id,
        run_id=mlflow.run_id,
        notes=item.notes,
        # The run's own come first: what was given with the version is newer.
        tags=tags_of(mlflow.tags) | tags_of(metadata.tags) | tags_of(item.tags),
        created=item.created_at or _LAST,
    )


def _step(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def _ms(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment else 0
