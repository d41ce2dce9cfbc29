"""Statements in signed envelopes, as anybody with the public keys checks them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from kubetune.attestation import EnvelopeError, envelope, opened, public_keys
from kubetune.keys import Keyring

OLD, NEW = ("1", b"a" * 32), ("2", b"b" * 32)
RING = Keyring((OLD,))
STATEMENT = {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "a"}]}


def changed(text: str, **fields: Any) -> str:
    return json.dumps(json.loads(text) | fields)


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_a_statement_comes_back_from_its_envelope() -> None:
    signed = envelope(RING, STATEMENT)
    assert opened(signed, public_keys(RING)) == STATEMENT
    assert envelope(RING, STATEMENT) == signed, "who signs again signs the same"
    (key,) = public_keys(RING).values()
    assert key.startswith("-----BEGIN PUBLIC KEY-----")


def test_what_is_signed_is_what_dsse_says() -> None:
    """Tools of others check the same bytes: type and content, each with its length."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    document = json.loads(envelope(RING, STATEMENT))
    assert document["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(document["payload"])
    (signature,) = document["signatures"]
    key: Any = load_pem_public_key(public_keys(RING)[signature["keyid"]].encode())
    message = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    key.verify(base64.b64decode(signature["sig"]), message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "x" * 1_000_000,
        changed(envelope(RING, STATEMENT), payload=encoded({"subject": []})),
        changed(envelope(RING, STATEMENT), payloadType="text/plain"),
        changed(envelope(RING, STATEMENT), payload="?"),
        changed(envelope(RING, STATEMENT), signatures=[]),
        changed(envelope(RING, STATEMENT), signatures=[{"keyid": "other", "sig": "eA=="}]),
        changed(envelope(RING, STATEMENT), signatures=None),
        envelope(Keyring((NEW,)), STATEMENT),
    ],
)
def test_what_nobody_known_has_signed(text: str) -> None:
    with pytest.raises(EnvelopeError):
        opened(text, public_keys(RING))


def test_keys_are_changed_with_both_for_a_while() -> None:
    both = Keyring((OLD, NEW))
    assert len(public_keys(both)) == 2
    for keys in (RING, both):
        assert opened(envelope(keys, STATEMENT), public_keys(both)) == STATEMENT
    assert opened(envelope(both, STATEMENT), public_keys(Keyring((NEW,)))) == STATEMENT
