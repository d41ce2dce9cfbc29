"""Of what other servers say, statuses show little, and nothing that isn't an error of an API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api.foreign import answered, error_fields, first_line, version_in


@pytest.mark.parametrize("text", ["2.14.1", "3.0.0rc1", "2.9.3.dev0+local", "3.1", "2.16.0-1"])
def test_a_version_is_shown(text: str) -> None:
    assert version_in(f"{text}\n") == text


@pytest.mark.parametrize(
    "text",
    ["", "root:x:0:0", "<html>", "3", "1.2 and more", "1.2\nsecret", "9" * 10_000, "1." * 90],
)
def test_what_is_no_version_is_not_shown(text: str) -> None:
    assert version_in(text) is None


@given(st.text(max_size=2000))
def test_a_line_is_short_and_visible(text: str) -> None:
    line = first_line(text)
    assert len(line) <= 300
    assert line.isprintable()
    assert "\u202e" not in line


def test_a_line_hides_credentials_and_shows_what_deceives() -> None:
    assert first_line("no https://me:hunter2@h today\nsecond") == "no https://***@h today"
    assert first_line("evil\u202etxt\x1b[31m") == "evil\\u202etxt\\u001b[31m"


def test_an_answer_without_a_known_error_is_a_status_and_a_kind() -> None:
    assert answered(500, "text/html; charset=utf-8") == "HTTP 500 (text/html)"
    assert answered(500, "<script>") == "HTTP 500"
    assert answered(400, "application/json", "bad name\nmore") == "HTTP 400: bad name"


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"[" * 10_000, b"\xff", b'"x"', b"{" + b" " * 600_000 + b"}"]
)
def test_what_is_no_small_object_has_no_fields(body: bytes) -> None:
    assert error_fields(body) == {}
