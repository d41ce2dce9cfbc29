"""The operator's keys, in a Secret of its own namespace that it makes itself."""

from __future__ import annotations

import base64
import binascii
import logging
import secrets

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ConflictError, KubernetesClient, NotFoundError
from kubetune.keys import KEY_BYTES, Keyring
from kubetune.names import MANAGED_BY

logger = logging.getLogger(__name__)

SECRET = "kubetune-keys"
FIRST_ID = "1"


class KeysError(Exception):
    """The Secret doesn't have keys that can be used; the message says what to do."""


async def stored_keys(client: KubernetesClient, namespace: str) -> Keyring:
    """The keys of this installation; the first time they are made.

    Raises KeysError, and ApiError when the Secret can't be read or made.
    """
    try:
        return read_keys(await client.get("Secret", namespace, SECRET))
    except NotFoundError:
        pass
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    manifest: JsonObject = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace, "labels": MANAGED_BY},
        "type": "Opaque",
        "data": {FIRST_ID: key},
    }
    try:
        made = await client.create(manifest)
        logger.info("made Secret %s/%s with a new key", namespace, SECRET)
    except ConflictError:
        # Another operator was faster.
        made = await client.get("Secret", namespace, SECRET)
    except NotFoundError as error:
        raise KeysError(
            f"namespace {namespace} is missing, in which Secret {SECRET} has the operator's keys:"
            " create it, or name another one in KUBETUNE_OPERATOR_NAMESPACE"
        ) from error
    return read_keys(made)


def read_keys(secret: JsonObject) -> Keyring:
    """The keys in a Secret: numbers, of which the highest is the newest. Raises KeysError."""
    found: list[tuple[int, bytes]] = []
    namespace = secret["metadata"]["namespace"]
    for name, text in (secret.get("data") or {}).items():
        try:
            key = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not name.isdecimal() or len(key) < KEY_BYTES:
            raise KeysError(
                f"Secret {namespace}/{SECRET}: data.{name} is no key: give a number as its name"
                f" and at least {KEY_BYTES} random bytes"
            )
        found.append((int(name), key))
    if not found:
        raise KeysError(
            f"Secret {namespace}/{SECRET} has no key: restore it from a backup, or delete it, and"
            " the operator makes a new one, with which it knows none of its runs"
        )
    return Keyring(tuple((str(number), key) for number, key in sorted(found)))
