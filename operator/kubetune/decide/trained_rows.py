"""The rows that a model was trained on, as far as they are known.

Its job tells, the Model's status, and those of the models that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubetune.api.kinds.status_types import LineageDict, TrainedRowsDict
from kubetune.api.training.trained_rows import MAX_TRAINED_ROWS
from kubetune.decide.resources import FineTuneJobResource, ModelResource

Job = FineTuneJobResource | None
Model = ModelResource | None


def of_models(models: Sequence[tuple[Model, Job]]) -> list[TrainedRowsDict]:
    """Rows behind models that become one, such as an adapter and its base, each with its job."""
    found: list[TrainedRowsDict] = []
    for model, job in models:
        if job is not None:
            found += of_job(job)
        output = model.status.get("jobOutput") if model else None
        found += (output.get("trainedOn") if output else None) or []
    for model, _ in models:
        # What is found in the registry stays when the job is gone. The cluster's own word is first.
        for rows in (model.status.get("trainedOn") if model else None) or ():
            tagged = rows.copy()
            tagged["toldBy"] = "tags"
            found.append(tagged)
    return _distinct(found)


def of_job(job: FineTuneJobResource) -> list[TrainedRowsDict]:
    """Rows behind the result of a job: its own, and those of what it started from."""
    return of_lineage(job.status.get("lineage") or {}, job.name)


def of_lineage(lineage: LineageDict, job: str) -> list[TrainedRowsDict]:
    """The same from status.lineage of the job of that name."""
    before = lineage.get("trainedOn") or []
    digest, split = lineage.get("datasetDigest"), lineage.get("splitDigest")
    if not digest:
        return _distinct(before)
    own: TrainedRowsDict = (
        {"datasetDigest": digest, "splitDigest": split, "by": job}
        if split
        else {"datasetDigest": digest, "by": job}
    )
    return _distinct([own, *before])


def _distinct(rows: Sequence[TrainedRowsDict]) -> list[TrainedRowsDict]:
    """Each split once, whoever told of it first."""
    found: dict[tuple[str, str | None], TrainedRowsDict] = {}
    for item in rows:
        found.setdefault((item["datasetDigest"], item.get("splitDigest")), item)
    return list(found.values())[:MAX_TRAINED_ROWS]
