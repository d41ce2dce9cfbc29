# pyright: reportMissingImports=false
"""The helpers that a workspace adds to its generated ``cmlapi`` package.

Copied into the generated package as ``cmlapi/utils.py``: it runs there, with that package's
classes, and does not import from here.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CURSOR_PAGE_SIZE = 100


def default_client(url: str | None = None, cml_api_key: str | None = None) -> Any:
    """A client for a workspace, by default the one that this workload runs in.

    Without ``url`` the address comes from ``CDSW_API_URL``, whose path belongs to another API;
    without ``cml_api_key`` the key comes from ``CDSW_APIV2_KEY``.
    """
    from cmlapi import ApiClient, CMLServiceApi, Configuration

    url = url or os.environ.get("CDSW_API_URL")
    if not url:
        raise ValueError("no workspace address: give url, or set CDSW_API_URL")
    key = cml_api_key or os.environ.get("CDSW_APIV2_KEY")
    if not key:
        raise ValueError("no API key: give cml_api_key, or set CDSW_APIV2_KEY")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("the workspace address must start with http:// or https://")
    configuration = Configuration()
    configuration.host = f"{parts.scheme}://{parts.netloc}"
    if Path(SYSTEM_CERTIFICATES).is_file():
        configuration.ssl_ca_cert = SYSTEM_CERTIFICATES
    client = ApiClient(configuration)
    client.set_default_header("authorization", f"Bearer {key}")
    return CMLServiceApi(client)


class Cursor:
    """Walks over all pages of a list call: ``Cursor(client.list_jobs, project_id).items()``."""

    def __init__(self, method: Callable[..., Any], *args: Any, **options: Any) -> None:
        self._method = method
        self._args = args
        self._options = options

    def items(self) -> Iterator[Any]:
        """Every item of every page, until a page is empty or names no next one."""
        token = ""
        while True:
            options = self._options | {"page_size": CURSOR_PAGE_SIZE}
            if token:
                options["page_token"] = token
            page = self._method(*self._args, **options)
            # Answers have two fields: the items, whatever their name, and the next page's token.
            name = next(field for field in page.swagger_types if field != "next_page_token")
            found = getattr(page, name)
            if not found:
                return
            yield from found
            token = page.next_page_token
            if not token:
                return
