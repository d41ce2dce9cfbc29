"""Parts of addresses: what is joined to them, and what servers give as one."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from kubetune.api.schema.addresses import is_http_address


def segment(text: str) -> str:
    """A text as one segment of a path, whatever is in it.

    Raises ValueError for those that can't be one: in every writing they mean another folder.
    """
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} can't be a part of an address's path")
    return quote(text, safe="")


def origin(text: str) -> str | None:
    """Scheme, host and port of what a server gives as an address; None when it isn't one."""
    try:
        parts = urlsplit(text)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return None
    return shown if is_http_address(shown) else None
