"""The API key of a workspace and its certificates, read when they are needed and never kept."""

from __future__ import annotations

from kubetune.api.bounded import NOTE, decoded
from kubetune.api.kinds.compute_target.block import CaBundle
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError


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
    key = decoded(text, NOTE).decode(errors="replace").strip()
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
