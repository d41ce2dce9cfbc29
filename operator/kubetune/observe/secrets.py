"""Secrets and certificates, read by name when they are needed and never kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.decide.resources import Resource
from kubetune.targets.table import facts_of


def named_secrets(target: ComputeTargetSpec) -> list[tuple[str, str | None]]:
    """Secrets, and keys of them, that the operator reads for a target."""
    wanted: list[tuple[str, str | None]] = []
    if target.tracking.credentials_secret_ref:
        wanted.append((target.tracking.credentials_secret_ref.name, None))
    return [*wanted, *(target.block.access_secrets if target.block else ())]


def source_secrets(
    target: ComputeTargetSpec | None, *resources: Resource[Any, Any] | None
) -> list[tuple[str, str | None]]:
    """Secrets, and keys of them, with the tokens that runs on the target read sources with.

    ``resources`` are Datasets and Models.
    """
    if not facts_of(target).carries_secrets:
        return []
    tokens = [each.spec.source.token for each in resources if each and each.spec]
    return [(token.name, token.key) for token in tokens if token]


async def secret_problem(
    client: KubernetesClient, namespace: str, wanted: Iterable[tuple[str, str | None]]
) -> str:
    """A sentence about the first Secret, or key of one, that is missing; else empty."""
    for name, key in sorted(set(wanted), key=str):
        try:
            secret = await client.get("Secret", namespace, name)
        except NotFoundError:
            return f"waiting for Secret {name} in namespace {namespace}"
        if key is not None and key not in (secret.get("data") or {}):
            return f"waiting for key {key} in Secret {name} in namespace {namespace}"
    return ""
