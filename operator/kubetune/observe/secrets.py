"""Secrets and certificates, read by name when they are needed and never kept."""

from __future__ import annotations

from collections.abc import Iterable

from kubetune.api.compute_target import Tracking
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.tracking.rest import Credentials


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


async def credentials(
    client: KubernetesClient, namespace: str, tracking: Tracking
) -> Credentials | None:
    """User name and password, or token, of the tracking server; None without a Secret.

    Raises NotFoundError when the Secret is missing, ValueError when its keys are.
    """
    if tracking.credentials_secret_ref is None:
        return None
    secret = await client.get("Secret", namespace, tracking.credentials_secret_ref.name)
    return Credentials.from_secret(secret.get("data") or {})


async def certificates(client: KubernetesClient, namespace: str, tracking: Tracking) -> str | None:
    """PEM certificates of the tracking server's authority, when the target names some."""
    if tracking.ca_bundle is None:
        return None
    bundle = await client.get("ConfigMap", namespace, tracking.ca_bundle.config_map_name)
    return (bundle.get("data") or {}).get(tracking.ca_bundle.key)
