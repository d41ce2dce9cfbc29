"""Training code of the user: what a job declares, and what the code finds in its environment."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubetune.api.schema.base import Value
from kubetune.api.schema.kubernetes_values import ConfigMapKeyRef
from kubetune.api.schema.rules import Rule, exactly_one

MAX_SCRIPT_CHARACTERS = 65_536

# Environment of the user's code.
ENV_MODEL = "KUBETUNE_MODEL"
"""Folder with the files of the model to start from."""
ENV_TRAIN_DATA = "KUBETUNE_TRAIN_DATA"
"""JSON lines: the training rows as PromptTemplate and format of the Dataset say."""
ENV_EVAL_DATA = "KUBETUNE_EVAL_DATA"
"""The same of the held-out rows; not set where there are none."""
ENV_TRAIN_ROWS = "KUBETUNE_TRAIN_ROWS"
"""JSON lines: the training rows with all columns, as the source has them."""
ENV_EVAL_ROWS = "KUBETUNE_EVAL_ROWS"
ENV_OUTPUT = "KUBETUNE_OUTPUT"
"""Folder for the adapter or model, empty at first."""
ENV_CHECKPOINTS = "KUBETUNE_CHECKPOINTS"
"""Folder for checkpoints; kept between attempts where the job's checkpoints are."""
ENV_RESUME = "KUBETUNE_RESUME_FROM_CHECKPOINT"
"""The newest complete checkpoint in it; not set where there is none."""
ENV_GRACE = "KUBETUNE_SCRIPT_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL."""

EXIT_RETRY = 75
"""Exit code by which the code asks for another attempt."""

Argument = Annotated[str, Field(max_length=1024)]


class ScriptTrainer(Value):
    """A Python script of your own."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("config_map_ref", "path"),
        Rule(
            cel="!has(self.path) || !self.path.matches('(^|/)[.][.](/|$)')",
            message="the path may not lead upwards; write it without ..",
            check=lambda script: script.path is None or ".." not in script.path.split("/"),
            field="path",
        ),
    )

    config_map_ref: ConfigMapKeyRef | None = Field(
        default=None,
        description=f"Key with the script's text, at most {MAX_SCRIPT_CHARACTERS:,} characters. It"
        " is frozen when the first attempt is submitted. Or give path.",
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern=r"^[!-~]+$",
        description="The script's file: in CML relative to the project, elsewhere an absolute path"
        " below one of the target's volumes. Such a job never adopts an identical version, as the"
        " file may change. Or give configMapRef.",
    )
    args: list[Argument] | None = Field(
        default=None,
        max_length=64,
        description="Arguments of the script; no credentials, everybody who sees the job sees"
        " them. Default: none.",
    )
