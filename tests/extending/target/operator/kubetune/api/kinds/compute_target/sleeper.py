"""How runs look in a folder: they sleep, and take the outcome that lies there for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubetune.api.kinds.compute_target.block import RecordedBlock, TargetBlock
from pydantic import Field


class SleeperTarget(TargetBlock):
    """A folder on the operator's machine."""

    folder: str = Field(
        min_length=1,
        max_length=1024,
        description="Where runs leave their files, and find their outcome: <kind of plan>.json.",
    )
    seconds: int = Field(default=1, ge=0, le=86400, description="How long a run sleeps. Default 1.")

    @property
    def address(self) -> tuple[str, ...]:
        """The folder."""
        return (self.folder,)

    @property
    def place_name(self) -> str:
        """The folder."""
        return f"folder {self.folder}"


class RecordedSleeper(RecordedBlock):
    """The folder that was submitted to."""

    folder: str = Field(description="Where runs leave their files.")

    @property
    def address(self) -> tuple[str, ...]:
        """The folder."""
        return (self.folder,)

    def as_block(self, external: Mapping[str, Any]) -> SleeperTarget:
        """Without what only new runs need."""
        return SleeperTarget.model_construct(folder=self.folder)
