"""Statements about registered versions in signed envelopes (DSSE), which everybody can check.

The key pairs follow from the operator's own keys, so that one Secret is all there is to keep and to
change. Only who signs or checks imports the library: it takes 8 MB, and most operators' objects
never need it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from kubetune.api import JsonObject
from kubetune.api.bounded import NOTE, decoded, json_object
from kubetune.keys import Keyring

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
CONFIG_MAP = "kubetune-attestation-keys"
"""In the operator's namespace: the public keys as PEM, by their ids."""


class EnvelopeError(ValueError):
    """The envelope can't be read, or nobody who is known has signed it."""


def public_keys(keys: Keyring) -> dict[str, str]:
    """The public keys as PEM by their ids, the oldest first."""
    pairs = (_pair(seed) for seed in keys.seeds("attestation"))
    return {key_id(pem): pem for pem in map(_pem, pairs)}


def key_id(pem: str) -> str:
    """The id of a public key: a digest of it."""
    return hashlib.sha256(pem.encode()).hexdigest()[:16]


def envelope(keys: Keyring, statement: JsonObject) -> str:
    """The statement, signed with the newest key."""
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    pair, pair_id = _signer(keys.seeds("attestation")[-1])
    signature = pair.sign(_encoded(PAYLOAD_TYPE, payload))
    return json.dumps(
        {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": pair_id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def opened(text: str, public: Mapping[str, str]) -> JsonObject:
    """The statement in an envelope that one of the keys has signed. Raises EnvelopeError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        given = json_object(text, NOTE)
        payload = decoded(given["payload"], NOTE)
        kind, signatures = str(given["payloadType"]), list(given["signatures"])
        for item in signatures[:8]:
            pem = public.get(str(item["keyid"]))
            key = load_pem_public_key(pem.encode()) if pem else None
            if not isinstance(key, Ed25519PublicKey):
                continue
            try:
                key.verify(decoded(item["sig"], NOTE), _encoded(kind, payload))
            except InvalidSignature:
                raise EnvelopeError("its signature doesn't fit: it was changed") from None
            return json_object(payload, NOTE)
    except EnvelopeError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EnvelopeError(f"it is no envelope of a statement: {error}") from None
    raise EnvelopeError("no key that is known has signed it")


@lru_cache(2)
def _signer(seed: bytes) -> tuple[Ed25519PrivateKey, str]:
    """A key pair and its id, which cost as much as a signature."""
    pair = _pair(seed)
    return pair, key_id(_pem(pair))


def _pair(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _pem(pair: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _encoded(kind: str, payload: bytes) -> bytes:
    """What is signed, by DSSE's rule: type and content with their lengths."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
