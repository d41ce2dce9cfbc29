"""Addresses have one form, and nothing that is joined to one leads elsewhere."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api.crd import custom_resource_definition
from kubetune.api.kinds.table import KINDS
from kubetune.api.manifests import ObjectError, parse_object
from kubetune.api.schema.addresses import (
    MEANINGS,
    FileAddress,
    GitAddress,
    HttpAddress,
    is_http_address,
)
from kubetune.clients.addresses import origin, segment
from pydantic import TypeAdapter, ValidationError
from yarl import URL

ADDRESS_FIELDS = re.compile(r"(?i)ur[il]$|endpoint|address")

GOOD = [
    "http://mlflow:5000",
    "https://host/",
    "http://10.0.0.1:80/a/b",
    "http://[::1]:5000/x",
    "https://a-b.c_d.example.com./v1",
    "http://127.0.0.1:65535",
    "https://h/ml.flow/...x/.hidden/..x",
    "http://hub/user/me@example.org/proxy",
]
BAD = [
    "http://host?x",
    "http://host/x?",
    "http://host#x",
    "http://me@host",
    "http://me:secret@host",
    "http://h/..",
    "http://h/../x",
    "http://h/a/./b",
    "http://h\\x",
    "http://h/\\..\\x",
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.1",
    "http://0177.0.0.1",
    "http://127.1",
    "http://256.0.0.1",
    "http://h:0",
    "http://h:65536",
    "http://h:",
    "http://h:80:90",
    "http://h//x",
    "ftp://h",
    "file:///etc/passwd",
    "gopher://h",
    "HTTP://h",
    "http://h/%2e%2e/x",
    "http://h/a b",
    "http:// h",
    "http://h\n",
    "http://h/x\r\nX: y",
    "http://h/x\x00",
    "http://[::1",
    "http://[]",
    "http://-h",
    "http://h..x",
    "http://é",
    "http://h/é",
    "http://",
    "http:///x",
    "//h/x",
    "http:h",
    "http://h/x;y",
]


def accepted(kind: Any, text: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_accepted(text: str) -> None:
    assert accepted(HttpAddress, text)
    assert is_http_address(text)


@pytest.mark.parametrize("text", BAD)
def test_an_address_that_two_readers_take_for_two_is_refused(text: str) -> None:
    assert not accepted(HttpAddress, text)
    assert not is_http_address(text)


@pytest.mark.parametrize(
    "text", ["https://h/a%20b.csv?sig=a/b?c&d=%3D", "https://h/f.csv", "https://h:8443/f"]
)
def test_a_file_may_have_a_signed_address(text: str) -> None:
    assert accepted(FileAddress, text)


@pytest.mark.parametrize(
    "text",
    ["https://u:p@h/f", "http://h/f", "https://h/../f", "https://h/f#x", "https://h/f?a b",
     "https://h\\f", "https://h/f?a\\b", "https://2130706433/f"],
)  # fmt: skip
def test_a_files_address_is_strict_all_the_same(text: str) -> None:
    assert not accepted(FileAddress, text)


@pytest.mark.parametrize(
    "text", ["https://h/x.git", "git@host:x/y.git", "ssh://git@h:22/x", "host.example.com:x"]
)
def test_a_repository_names_a_server(text: str) -> None:
    assert accepted(GitAddress, text)


@pytest.mark.parametrize(
    "text",
    ["ext::sh -c x", "ext::x", "file:///etc", "-oProxyCommand=x:y", "--upload-pack=x:y",
     "https://u:p@h/x", "git@host:../x", "ssh://-oX/x", "/etc/x", "git@host:x y"],
)  # fmt: skip
def test_a_repository_names_no_program_and_no_file(text: str) -> None:
    assert not accepted(GitAddress, text)


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in (schema.get("properties") or {}).items():
        yield f"{path}.{name}", inner
        yield from fields(inner, f"{path}.{name}")
    if isinstance(items := schema.get("items"), dict):
        yield from fields(items, f"{path}[]")


def test_every_address_of_a_spec_is_strict() -> None:
    found: dict[str, str] = {}
    for kind in KINDS:
        (version,) = custom_resource_definition(kind)["spec"]["versions"]
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for path, schema in fields(spec, kind.kind):
            if ADDRESS_FIELDS.search(path.rpartition(".")[2]) and schema.get("type") == "string":
                found[path] = schema.get("pattern", "")
    assert len(found) >= 8
    assert {path for path, pattern in found.items() if pattern not in MEANINGS} == set()


def test_what_is_wrong_is_said_in_words() -> None:
    target = {
        "apiVersion": "kubetune.io/v1alpha1",
        "kind": "ComputeTarget",
        "metadata": {"name": "t"},
        "spec": {"kubernetes": {"image": "i"}, "tracking": {"uri": "http://host/x?y="}},
    }
    with pytest.raises(ObjectError) as caught:
        parse_object(target)
    said = str(caught.value)
    assert said.startswith("spec.tracking.uri: must be an address such as https://host:8080/path")
    assert '"http://host/x?y=" is none' in said
    assert "[A-Za-z" not in said


@given(st.text(min_size=1, max_size=40))
def test_a_joined_segment_is_one_segment(text: str) -> None:
    try:
        part = segment(text)
    except (ValueError, UnicodeEncodeError):
        assert text in (".", "..") or not text.isprintable()
        return
    joined = URL(f"http://host:80/api/{part}", encoded=True)
    assert joined.host == "host"
    assert joined.raw_parts == ("/", "api", part)
    assert not urlsplit(str(joined)).query
    assert not urlsplit(str(joined)).fragment


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://sso.example/login?token=s3cret", "https://sso.example"),
        ("https://me:s3cret@sso.example/x", "https://sso.example"),
        ("/login?token=s3cret", None),
        ("javascript:s3cret", None),
        ("http://[s3cret", None),
        ("https://s3 cret/", None),
    ],
)
def test_of_a_redirect_only_the_place_is_shown(location: str, shown: str | None) -> None:
    assert origin(location) == shown
