"""Signs statements about versions, and shows the public keys to everybody."""

from __future__ import annotations

import logging

from kubetune.api import JsonObject
from kubetune.attestation import CONFIG_MAP, envelope, public_keys
from kubetune.clients.kubernetes import ApiError, ConflictError, KubernetesClient
from kubetune.keys import Keyring

logger = logging.getLogger(__name__)


class Attesting:
    """Signs; the ConfigMap with the public keys is there once something was signed."""

    def __init__(self, client: KubernetesClient, namespace: str, keys: Keyring) -> None:
        self._client = client
        self._namespace = namespace
        self._keys = keys
        self._shown = False

    async def signed(self, statement: JsonObject) -> str:
        """The statement in an envelope."""
        if not self._shown:
            try:
                await self._show()
                self._shown = True
            except ApiError as error:
                # Nobody can check before; the next one tries again.
                logger.warning("ConfigMap %s can't be written: %s", CONFIG_MAP, error)
        return envelope(self._keys, statement)

    async def _show(self) -> None:
        data = public_keys(self._keys)
        manifest: JsonObject = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP,
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/name": "kubetune"},
            },
            "data": data,
        }
        try:
            await self._client.create(manifest)
        except ConflictError:
            # Keys that are no more stay: they prove nothing bad of what they have signed.
            await self._client.patch("ConfigMap", self._namespace, CONFIG_MAP, {"data": data})
