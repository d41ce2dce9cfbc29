"""Ways into a local cluster: kubeconfig files and small HTTP requests for readiness."""

import base64
import http.client
import json
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from kubetune_devcluster.components import Layout

# The file name of the identity in pki/ that each kubeconfig carries.
USERS = ("admin", "operator", "kube-controller-manager", "kube-scheduler", "node", "kubelet", "dns")


def write_kubeconfigs(layout: Layout) -> None:
    """One kubeconfig for each user of the cluster, certificates included."""
    for user in USERS:
        path = layout.kubeconfig(user)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            yaml.safe_dump(_kubeconfig(layout, user), file, sort_keys=False)


def _kubeconfig(layout: Layout, user: str) -> dict[str, object]:
    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    cluster = {
        "server": layout.url("kube-apiserver"),
        "certificate-authority-data": inline(layout.certificate("ca")),
    }
    credentials = {
        "client-certificate-data": inline(layout.certificate(user)),
        "client-key-data": inline(layout.key(user)),
    }
    context = {"cluster": "kubetune-local", "user": user}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kubetune-local",
        "clusters": [{"name": "kubetune-local", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "kubetune-local", "context": context}],
    }


class Client:
    """GET requests to the servers of one cluster, as its administrator where it is HTTPS."""

    def __init__(self, layout: Layout) -> None:
        self._context = ssl.create_default_context(cafile=str(layout.certificate("ca")))
        self._context.load_cert_chain(layout.certificate("admin"), layout.key("admin"))
        self._api = layout.url("kube-apiserver")

    def status(self, url: str, timeout: float = 5) -> int:
        """The HTTP status of a GET, 0 when the server cannot be reached."""
        return self.get(url, timeout)[0]

    def read(self, path: str) -> dict[str, Any] | None:
        """An object of the API server by its path, None when it is not there."""
        status, body = self.get(self._api + path, timeout=5)
        return json.loads(body) if status == 200 else None

    def get(self, url: str, timeout: float = 5) -> tuple[int, bytes]:
        """Status and body of a GET; (0, b"") when the server cannot be reached."""
        # http.client and not urllib: a proxy from the environment must not see loopback requests.
        parts = urlsplit(url)
        host = parts.netloc
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, timeout=timeout, context=self._context)
        else:
            connection = http.client.HTTPConnection(host, timeout=timeout)
        try:
            connection.request("GET", parts._replace(scheme="", netloc="").geturl())
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()
