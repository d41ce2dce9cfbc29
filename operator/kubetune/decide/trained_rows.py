"""The rows that a model was trained on, as far as they are known.

Its job tells, the Model's status, and those of the models that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.model.spec import ModelSpec
from kubetune.api.training.trained_rows import MAX_TRAINED_ROWS
from kubetune.decide.resources import Resource

Job = Resource[FineTuneJobSpec] | None
Model = Resource[ModelSpec] | None


def of_models(models: Sequence[tuple[Model, Job]]) -> list[JsonObject]:
    """Rows behind models that become one, such as an adapter and its base, each with its job."""
    found: list[JsonObject] = []
    for model, job in models:
        if model is not None:
            # What is found in the registry stays when the job is gone.
            found += model.status.get("trainedOn") or []
            found += (model.status.get("jobOutput") or {}).get("trainedOn") or []
        if job is not None:
            found += of_job(job)
    return _distinct(found)


def of_job(job: Resource[FineTuneJobSpec]) -> list[JsonObject]:
    """Rows behind the result of a job: its own, and those of what it started from."""
    return of_lineage(job.status.get("lineage") or {}, job.name)


def of_lineage(lineage: JsonObject, job: str) -> list[JsonObject]:
    """The same from status.lineage of the job of that name."""
    own = {key: lineage[key] for key in ("datasetDigest", "splitDigest") if lineage.get(key)}
    before: list[JsonObject] = lineage.get("trainedOn") or []
    return _distinct([*([own | {"by": job}] if "datasetDigest" in own else []), *before])


def _distinct(rows: Sequence[JsonObject]) -> list[JsonObject]:
    """Each split once, whoever trained on it first."""
    found: dict[tuple[Any, Any], JsonObject] = {}
    for item in rows:
        found.setdefault((item["datasetDigest"], item.get("splitDigest")), item)
    return list(found.values())[:MAX_TRAINED_ROWS]
