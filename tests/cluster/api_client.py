"""A small synchronous client of the API server, quick enough for thousands of requests."""

import base64
import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubetune.api import API_VERSION
from kubetune.api.crd import custom_resource_definition
from kubetune.api.kinds.table import BY_KIND, Kind

MAX_IDLE_SECONDS = 20


def administrator(config: dict[str, Any], folder: Path) -> ssl.SSLContext:
    """TLS with the certificate of a kubeconfig's user."""
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    identity = folder / "identity.pem"  # ssl reads certificates from files only
    identity.touch(mode=0o600)
    identity.write_bytes(
        base64.b64decode(user["client-certificate-data"])
        + base64.b64decode(user["client-key-data"])
    )
    context.load_cert_chain(identity)
    identity.unlink()
    return context


class ApiClient:
    """One kept-alive connection with the administrator's certificate of a kubeconfig.

    ``user`` is somebody whom it acts as, with no more rights than theirs.
    """

    def __init__(
        self, kubeconfig: Path, folder: Path, user: str | None = None, timeout: float = 30
    ) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, context = config["clusters"][0]["cluster"], administrator(config, folder)
        address = urlsplit(cluster["server"]).netloc
        self._connection = http.client.HTTPSConnection(address, context=context, timeout=timeout)
        self._user = {"Impersonate-User": user} if user else {}
        self._used = time.monotonic()

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """Status and decoded answer of one request."""
        if time.monotonic() - self._used > MAX_IDLE_SECONDS:
            # The server closes idle connections, and that shows only in the next request.
            self._connection.close()
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type, "Accept": "application/json"} | self._user
        try:
            self._connection.request(method, path, body=data, headers=headers)
            response = self._connection.getresponse()
        except ConnectionError:
            # The server was restarted; what may be repeated is.
            self._connection.close()
            if method != "GET":
                raise
            self._connection.request(method, path, headers=headers)
            response = self._connection.getresponse()
        text = response.read()
        self._used = time.monotonic()
        try:
            return response.status, json.loads(text)
        except ValueError:
            # A kind that isn't served is told in plain words.
            return response.status, {"message": text.decode(errors="replace")}

    def close(self) -> None:
        self._connection.close()


def collection(kind: Kind, namespace: str = "default") -> str:
    """The path of a kind's objects."""
    scope = f"/namespaces/{namespace}" if kind.namespaced else ""
    return f"/apis/{API_VERSION}{scope}/{kind.plural}"


def manifest(kind: Kind, spec: object, name: str = "sample") -> dict[str, Any]:
    """An object with this spec."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def create(
    api: ApiClient, kind: str, spec: object, name: str = "sample", dry_run: bool = True
) -> tuple[int, str]:
    """Status and message of a creation with strict field validation."""
    query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    definition = BY_KIND[kind]
    status, answer = api.request(
        "POST", collection(definition) + query, manifest(definition, spec, name)
    )
    return status, answer.get("message", "")


def spec_schema(kind: Kind) -> dict[str, Any]:
    """The rendered schema of a kind's spec."""
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]["properties"]["spec"]
