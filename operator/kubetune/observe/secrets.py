"""Secrets and certificates, read by name when they are needed and never kept."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from kubetune.api.kinds.compute_target.block import CaBundle
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec, Tracking
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.decide.resources import Resource
from kubetune.decide.sources import dataset_source, model_source
from kubetune.targets.table import facts_of
from kubetune.tracking.rest import Credentials


def named_secrets(target: ComputeTargetSpec) -> list[tuple[str, str | None]]:
    """Secrets, and keys of them, that the operator reads for a target."""
    wanted: list[tuple[str, str | None]] = []
    if target.tracking.credentials_secret_ref:
        wanted.append((target.tracking.credentials_secret_ref.name, None))
    return [*wanted, *(target.block.access_secrets if target.block else ())]


def source_secrets(
    target: ComputeTargetSpec | None, *resources: Resource[Any] | None
) -> list[tuple[str, str | None]]:
    """Secrets, and keys of them, with the tokens that runs on the target read sources with.

    ``resources`` are Datasets and Models.
    """
    if not facts_of(target).carries_secrets:
        return []
    wanted: list[tuple[str, str | None]] = []
    for resource in resources:
        if resource is None or resource.spec is None:
            continue
        if isinstance(resource.spec, DatasetSpec):
            _, mounts = dataset_source(resource.name, resource.spec)
        else:
            _, mounts = model_source(resource.name, resource.spec)
        wanted += [(token.name, token.key) for token in mounts.tokens.values()]
    return wanted


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


async def cml_access(
    client: KubernetesClient, namespace: str, target: CmlTarget
) -> tuple[str, str | None]:
    """The API key of a workspace, and PEM certificates of its authority when it names some.

    Raises NotFoundError when Secret or ConfigMap are missing, ValueError when their keys are.
    """
    wanted = target.api_key_secret_ref
    try:
        secret = await client.get("Secret", namespace, wanted.name)
    except NotFoundError:
        raise NotFoundError(
            404,
            "NotFound",
            f"there is no Secret {wanted.name} in namespace {namespace}; make it with key"
            f" {wanted.key}, which holds an API key of the workspace",
        ) from None
    text = (secret.get("data") or {}).get(wanted.key, "")
    key = base64.b64decode(text).decode(errors="replace").strip()
    if not key:
        raise ValueError(
            f"key {wanted.key} in Secret {wanted.name} in namespace {namespace} is missing or"
            " empty; it holds an API key of the workspace"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"key {wanted.key} in Secret {wanted.name} in namespace {namespace} holds no API key:"
            " it has blanks or characters that no header can carry"
        )
    if target.ca_bundle is None:
        return key, None
    return key, await _bundle(client, namespace, target.ca_bundle)


async def _bundle(client: KubernetesClient, namespace: str, bundle: CaBundle) -> str:
    try:
        config_map = await client.get("ConfigMap", namespace, bundle.config_map_name)
    except NotFoundError:
        raise NotFoundError(
            404,
            "NotFound",
            f"there is no ConfigMap {bundle.config_map_name} in namespace {namespace}, which"
            " spec.cml.caBundle names",
        ) from None
    found = (config_map.get("data") or {}).get(bundle.key)
    if not found:
        raise ValueError(
            f"key {bundle.key} in ConfigMap {bundle.config_map_name} in namespace {namespace} is"
            " missing or empty; it holds certificates as PEM"
        )
    return found


async def config_map_value(client: KubernetesClient, namespace: str, name: str, key: str) -> str:
    """One value of a ConfigMap. Raises NotFoundError, ValueError when the key is missing."""
    config_map = await client.get("ConfigMap", namespace, name)
    value = (config_map.get("data") or {}).get(key)
    if value is None:
        raise ValueError(f"ConfigMap {name} in namespace {namespace} has no key {key}")
    return str(value)
