"""Status of a Model: what its inspection found, and whose output it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kubetune.api.kinds.inspection import (
    ModelShape,
)
from kubetune.api.kinds.status import InspectionState, ObjectStatus
from kubetune.api.schema.base import Value
from kubetune.api.training.families import PadTokenFrom
from kubetune.api.training.trained_rows import MAX_TRAINED_ROWS, TrainedRows


class JobOutput(Value):
    """What a FineTuneJob has left, so that the Model needs it no longer."""

    name: str = Field(max_length=253, description="The FineTuneJob.")
    uri: str = Field(max_length=2048, description="Its result as MLflow names it.")
    files_digest: str | None = Field(
        default=None, description="Digest of the list of its files, as the run has told it."
    )
    trained_on: list[TrainedRows] | None = Field(
        default=None, max_length=MAX_TRAINED_ROWS, description="Rows behind that result."
    )


class ModelStatus(ModelShape, ObjectStatus):
    """Status of a Model."""

    inspection: InspectionState | None = None
    made_by: str | None = Field(
        default=None, max_length=253, description="FineTuneJob whose output it is."
    )
    job_output: JobOutput | None = Field(
        default=None,
        description="What spec.source.fineTuneJob has left; from then on the job may be deleted.",
    )
    source: str | None = Field(default=None, description="The source in one line.")
    type: Literal["base", "adapter"] | None = Field(default=None, description="base or adapter.")
    revision: str | None = Field(default=None, description="Commit, version or content digest.")
    trained_on: list[TrainedRows] | None = Field(
        default=None,
        max_length=MAX_TRAINED_ROWS,
        description="Rows that the version was trained on, by its tags in the registry.",
    )
    architecture: str | None = Field(default=None, description="Architecture class.")
    model_type: str | None = Field(default=None, description="transformers model type.")
    parameters: int | None = Field(default=None, description="Number of parameters.")
    dtype: str | None = Field(default=None, description="Number format of the weights.")
    context_length: int | None = Field(default=None, description="Longest sequence, in tokens.")
    size_bytes: int | None = Field(default=None, description="Bytes of the weight files.")
    license: str | None = Field(default=None, description="License as the repository names it.")
    chat_template: bool | None = Field(default=None, description="Has a chat template.")
    pad_token: str | None = Field(
        default=None, description="Token that pads, as far as the files tell."
    )
    pad_token_from: PadTokenFrom | None = Field(
        default=None,
        description="What it is: tokenizer (its own), reserved, unknown or end. Padding is masked,"
        " so an end token is learned all the same.",
    )
    base_model: str | None = Field(default=None, description="Adapters: base model as recorded.")
    adapter_rank: int | None = Field(default=None, description="Adapters: rank.")
