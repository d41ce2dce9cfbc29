"""Addresses that a spec may hold: one strict form, which API server and models refuse alike.

What joins something to an address, or hands it to a program, must not be able to end up elsewhere
than the address reads: so there are no credentials, no query or fragment that would swallow what
is joined, no ``..``, no backslash and no escape that one reader takes for a letter and another for
a separator. Numbers are hosts in one form alone, as four decimals.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?"
_TOP_LABEL = "[A-Za-z]([-A-Za-z0-9_]*[A-Za-z0-9_])?"
_HOST = rf"(({_LABEL}\.)*{_TOP_LABEL}\.?|{_BYTE}(\.{_BYTE}){{3}}|\[[0-9A-Fa-f:]*:[0-9A-Fa-f.:]*\])"
_PORT = (
    "(:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9][0-9]|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}))?"
)


def _segment(letters: str) -> str:
    """These letters and dots, but neither ``.`` nor ``..``."""
    return rf"(\.{{0,2}}[{letters}][{letters}.]*|\.{{3}}[{letters}.]*)"


_PLAIN = _segment("-A-Za-z0-9_~+=,:@")
_PLAIN_PATH = f"(/{_PLAIN})*/?"
_SUB = r"!$&'()*+,;=:@"

HTTP_ADDRESS = rf"^https?://{_HOST}{_PORT}{_PLAIN_PATH}$"
FILE_ADDRESS = (
    rf"^https://{_HOST}{_PORT}(/{_segment(rf'-A-Za-z0-9_~%{_SUB}')})*/?"
    rf"(\?[-A-Za-z0-9._~%{_SUB}/?]*)?$"
)
_REPOSITORY = _segment("-A-Za-z0-9_~+=,")
_USER = "([A-Za-z0-9_][-A-Za-z0-9._]*@)?"
GIT_ADDRESS = (
    rf"^(https?://{_HOST}{_PORT}{_PLAIN_PATH}|ssh://{_USER}{_HOST}{_PORT}{_PLAIN_PATH}"
    rf"|{_USER}{_HOST}:/?{_REPOSITORY}(/{_REPOSITORY})*/?)$"
)

HttpAddress = Annotated[str, Field(min_length=8, max_length=2048, pattern=HTTP_ADDRESS)]
"""The address of an HTTP server, to which paths are joined."""

FileAddress = Annotated[str, Field(min_length=9, max_length=2048, pattern=FILE_ADDRESS)]
"""The https address of one file. It may have a query, which is where signed ones sign."""

GitAddress = Annotated[str, Field(min_length=5, max_length=2048, pattern=GIT_ADDRESS)]
"""A git repository, of the forms that name a server and no program to run."""

MEANINGS = {
    HTTP_ADDRESS: "must be an address such as https://host:8080/path: credentials don't belong in"
    " an address, nor do ?, #, %, ; .. blanks or backslashes, and a number is a host as 10.0.0.1",
    FILE_ADDRESS: "must be an address such as https://host/file.csv?signature=1: credentials don't"
    " belong in an address, nor do #, .. blanks or backslashes",
    GIT_ADDRESS: "must be an address such as https://host/repository.git or"
    " git@host:repository.git: credentials don't belong in an address, nor do ?, #, %, .. blanks"
    " or backslashes",
}
"""What an error says in place of a pattern."""

_HTTP_ADDRESS = re.compile(HTTP_ADDRESS)


def is_http_address(text: str) -> bool:
    """Whether a text has the form of HttpAddress, for what no schema has looked at."""
    return len(text) <= 2048 and _HTTP_ADDRESS.fullmatch(text) is not None
