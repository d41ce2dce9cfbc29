"""Keys: codes that only their holder can make, and the Secret that keeps them."""

import base64
import hmac
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.clients.stored_keys import KeysError, read_keys
from kubetune.keys import CODE_LENGTH, Keyring
from kubetune.names import (
    RUN_KEY_LENGTH,
    derived_run_key,
    new_run_key,
    run_key_in,
    run_key_is_ours,
)

OLD, NEW = ("1", b"a" * 32), ("2", b"b" * 32)
RING = Keyring((OLD,))


def secret(data: dict[str, str] | None) -> JsonObject:
    return {"metadata": {"namespace": "system", "name": "kubetune-keys"}, "data": data}


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def test_a_code_is_about_its_parts_and_their_borders() -> None:
    code = RING.code("mark", "a", "bc")
    assert RING.verifies(code, "mark", "a", "bc")
    for other in (
        ("mark", "ab", "c"),
        ("mark", "a", "bc", ""),
        ("marka", "bc"),
        ("run", "a", "bc"),
    ):
        assert not RING.verifies(code, *other)
    for other in (
        "",
        code[0],
        code[:-1],
        "0" * 32,
        code[:-1] + "g",
        code + "0",
        "\u00e9",
        code.upper() + "x",
    ):
        assert not RING.verifies(other, "mark", "a", "bc")


def test_while_keys_are_changed_both_count_and_the_newest_signs() -> None:
    both = Keyring((OLD, NEW))
    before, after = RING.code("mark", "a"), both.code("mark", "a")
    assert both.verifies(before, "mark", "a")
    assert both.verifies(after, "mark", "a")
    assert after == Keyring((NEW,)).code("mark", "a") != before
    assert not Keyring((NEW,)).verifies(before, "mark", "a")
    # What is derived stays, so that no run is forgotten meanwhile.
    assert derived_run_key(both, "uid", "key") == derived_run_key(RING, "uid", "key")


def test_a_run_key_is_bound_to_its_object() -> None:
    key = new_run_key(RING, "install", "team", "tune")
    assert len(key) == RUN_KEY_LENGTH
    assert run_key_is_ours(key, RING, "install", "team", "tune")
    for other in (
        ("install", "team", "tuned"),
        ("install", "team-b", "tune"),
        ("another", "team", "tune"),
    ):
        assert not run_key_is_ours(key, RING, *other)
    for text in ("", key[:6], key[:-1], key + "0", "x" * 16, "\u00e9" * 16):
        assert not run_key_is_ours(text, RING, "install", "team", "tune")
    assert run_key_in(f"tune-{key}-1") == key


def test_a_derived_run_key_takes_the_key() -> None:
    assert derived_run_key(RING, "uid", "key") != derived_run_key(Keyring((NEW,)), "uid", "key")
    assert len(derived_run_key(RING, "uid", "key")) == RUN_KEY_LENGTH


def test_keys_are_read_by_number() -> None:
    data = {"10": encoded(NEW[1]), "9": encoded(OLD[1])}
    assert read_keys(secret(data)) == Keyring((("9", OLD[1]), ("10", NEW[1])))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "has no key"),
        ({}, "has no key"),
        ({"1": encoded(b"short")}, "data.1 is no key"),
        ({"1": "***"}, "data.1 is no key"),
        ({"first": encoded(OLD[1])}, "data.first is no key"),
        ({"1": encoded(OLD[1]), "2": ""}, "data.2 is no key"),
    ],
)
def test_what_is_no_key_is_refused(data: Any, words: str) -> None:
    with pytest.raises(KeysError, match=words):
        read_keys(secret(data))


def test_keys_are_not_shown() -> None:
    assert "aaaa" not in repr(RING)


def test_codes_stay_what_they_are_as_clusters_are_full_of_them() -> None:
    parts = ("run", "install", "größer", "")
    framed = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
    known = hmac.new(OLD[1], framed, "sha256").hexdigest()
    assert RING.code(*parts) == known[:CODE_LENGTH]
