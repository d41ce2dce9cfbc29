"""Rows that a model was trained on, as status and tags of versions have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from kubetune.api.bounded import NOTE, json_value
from kubetune.api.schema.base import Value

MAX_TRAINED_ROWS = 32
TAG_DATASET_DIGEST = "kubetune.datasetDigest"
TAG_SPLIT_DIGEST = "kubetune.splitDigest"
TAG_TRAINED_ON = "kubetune.trainedOn"
"""Of a version: JSON of the rows that the models were trained on which it was made from."""


class TrainedRows(Value):
    """Rows of a Dataset that trained."""

    dataset_digest: str = Field(max_length=256, description="Content digest of the Dataset.")
    split_digest: str | None = Field(
        default=None, max_length=256, description="Digest over the split rows."
    )
    by: str | None = Field(default=None, max_length=253, description="FineTuneJob that did.")
    told_by: Literal["tags"] | None = Field(
        default=None,
        description="tags: tags of a registered version say so, which whoever may write to the"
        " registry can change. Otherwise the cluster's own objects do.",
    )


def of_tags(tags: Mapping[str, str], job: str | None) -> list[TrainedRows]:
    """What the tags of a version tell, which its FineTuneJob ``job`` has set, or anybody else."""
    found: list[TrainedRows] = []
    if digest := tags.get(TAG_DATASET_DIGEST):
        split = tags.get(TAG_SPLIT_DIGEST) or None
        found.append(
            TrainedRows.model_validate({"datasetDigest": digest, "splitDigest": split, "by": job})
        )
    try:
        before = _LIST.validate_python(json_value(tags.get(TAG_TRAINED_ON) or "[]", NOTE))
    except (ValueError, ValidationError):
        before = []
    told = [rows.model_copy(update={"told_by": "tags"}) for rows in (*found, *before)]
    return told[:MAX_TRAINED_ROWS]


_LIST = TypeAdapter(list[TrainedRows])
