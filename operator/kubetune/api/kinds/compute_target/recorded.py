"""What a status keeps of a compute target: what finding the runs again takes that began there.

References to Secrets are names alone. No rules: what stands here was accepted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from kubetune.api.kinds.compute_target.block import CaBundle, RecordedBlock
from kubetune.api.kinds.compute_target.cml import (
    ApiKeyRef,
    CmlTarget,
    PollBounds,
    RuntimeSelection,
)
from kubetune.api.schema.base import LocalRef, Value


class RecordedWorkspace(RecordedBlock):
    """The project of CML that was submitted to."""

    url: str = Field(description="Address of the workspace.")
    project: str = Field(description="Name or id of the project, as the target gave it.")
    api_key_secret_ref: ApiKeyRef = Field(description="Secret with the API key: name and key.")
    ca_bundle: CaBundle | None = Field(
        default=None, description="Certificates of the workspace's authority."
    )
    poll: PollBounds | None = Field(default=None, description="How often runs are looked at.")
    scheduling_timeout_seconds: int = Field(description="Longest wait for room.")

    @property
    def address(self) -> tuple[str, ...]:
        """Workspace and project."""
        return self.url, self.project

    def as_block(self, external: Mapping[str, Any]) -> CmlTarget:
        """Without what only new runs need: resources, a runtime."""
        return CmlTarget.model_construct(
            url=self.url,
            # A name may belong to another project by now.
            project=external.get("projectId") or self.project,
            api_key_secret_ref=self.api_key_secret_ref,
            ca_bundle=self.ca_bundle,
            runtime=RuntimeSelection.model_construct(),
            poll=self.poll,
            scheduling_timeout_seconds=self.scheduling_timeout_seconds,
        )


class RecordedTracking(Value):
    """The server that the run reports to."""

    type: Literal["mlflow", "cml"] = Field(description="mlflow or cml.")
    uri: str | None = Field(default=None, description="Address of the MLflow server.")
    external_uri: str | None = Field(default=None, description="Address for links.")
    experiment: str = Field(description="Name of the experiment.")
    credentials_secret_ref: LocalRef | None = Field(
        default=None, description="Secret with the credentials, by name."
    )
    ca_bundle: CaBundle | None = Field(
        default=None, description="Certificates of the server's authority."
    )


class RecordedTarget(Value):
    """The target as it was when the newest run was submitted; runs are sought there."""

    target: str | None = Field(default=None, description="Kind/name of the compute target.")
    type: Literal["kubernetes", "cml"] | None = Field(
        default=None, description="kubernetes (Jobs in this namespace) or cml."
    )
    cml: RecordedWorkspace | None = Field(default=None, description="The project of CML.")
    tracking: RecordedTracking | None = Field(
        default=None, description="The server that the run reports to."
    )
