"""Values of ConfigMaps, read by name when they are needed and never kept."""

from __future__ import annotations

from kubetune.clients.kubernetes import KubernetesClient


async def config_map_value(client: KubernetesClient, namespace: str, name: str, key: str) -> str:
    """One value of a ConfigMap. Raises NotFoundError, ValueError when the key is missing."""
    config_map = await client.get("ConfigMap", namespace, name)
    value = (config_map.get("data") or {}).get(key)
    if value is None:
        raise ValueError(f"ConfigMap {name} in namespace {namespace} has no key {key}")
    return str(value)
