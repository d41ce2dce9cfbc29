"""What the admin of a target opens to those who use it, and the label by which owners do."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import ObjectName, Value, keyed_by
from kubetune.api.schema.rules import Rule

USE_LABEL = "kubetune.io/use"
"""On a Secret, claim or service account: what its owner opens it for, with dots between."""

SecretUse = Literal["hub", "judge", "tracking", "target"]
ClaimUse = Literal["data", "checkpoint", "target"]
Use = SecretUse | ClaimUse


class AllowedSecret(Value):
    """A Secret that runs on the target may use."""

    name: ObjectName = Field(description="Secret in the namespace of who uses the target.")
    uses: list[SecretUse] = Field(
        min_length=1,
        max_length=4,
        description="What for. hub: tokenSecretRef of Datasets and Models; judge: apiKeySecretRef"
        " of judges; tracking: tracking.credentialsSecretRef; target: what else the target names.",
    )


class AllowedClaim(Value):
    """A PersistentVolumeClaim that runs on the target may mount."""

    name: ObjectName = Field(description="Claim in the namespace of who uses the target.")
    uses: list[ClaimUse] = Field(
        min_length=1,
        max_length=3,
        description="What for. data: read-only, as source of Datasets and Models; checkpoint:"
        " checkpoint.claimName, which is written to; target: volumes and modelCache of the target.",
    )


class Allowed(Value):
    """Secrets and claims that need no label to be used on the target; at least one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.secrets) || has(self.claims)",
            message="give secrets or claims",
            check=lambda given: given.secrets is not None or given.claims is not None,
        ),
    )

    secrets: Annotated[list[AllowedSecret], *keyed_by("name")] | None = Field(
        default=None, min_length=1, max_length=64, description="Secrets by name."
    )
    claims: Annotated[list[AllowedClaim], *keyed_by("name")] | None = Field(
        default=None, min_length=1, max_length=64, description="PersistentVolumeClaims by name."
    )

    def has(self, kind: str, name: str, use: Use) -> bool:
        """Whether an object is among them, for this use."""
        listed = {"Secret": self.secrets, "PersistentVolumeClaim": self.claims}.get(kind) or ()
        return any(name == item.name and use in item.uses for item in listed)
