"""An admission webhook that a test has refuse, allow, or go away."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubetune.api import JsonObject
from kubetune_devcluster.cluster import LocalCluster

PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
MESSAGE = "this team is closed"


class Webhook:
    """Use as a context manager; it serves with a certificate of the cluster's own authority."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.denies = True
        self.denied: Counter[str] = Counter()
        """How often an object was denied, by the name of its owner."""
        self._pki = cluster.home / "pki"
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            # HTTP/1.0, so that no connection is kept when it goes.
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(webhook.answer(review["request"])).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pki / "serving.crt", self._pki / "serving.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go()

    def go(self) -> None:
        """Be away from now on: nothing listens on its port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def configuration(self, name: str, namespace: str) -> JsonObject:
        """Has the API server ask about new batch Jobs of a namespace."""
        authority = (self._pki / "ca.crt").read_bytes()
        host, port = self._server.server_address[:2]
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": "closed.example.com",
                    "clientConfig": {
                        "url": f"https://{host!s}:{port}/",
                        "caBundle": base64.b64encode(authority).decode(),
                    },
                    "rules": [
                        {
                            "apiGroups": ["batch"],
                            "apiVersions": ["*"],
                            "operations": ["CREATE"],
                            "resources": ["jobs"],
                        }
                    ],
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": namespace}
                    },
                    "failurePolicy": "Fail",
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": 5,
                }
            ],
        }

    def answer(self, request: JsonObject) -> JsonObject:
        """The review of a request."""
        metadata = request["object"]["metadata"]
        verdict: JsonObject = {"uid": request["uid"], "allowed": not self.denies}
        if self.denies:
            owners = metadata.get("ownerReferences") or [{}]
            self.denied[f"{owners[0].get('kind')}/{owners[0].get('name')}"] += 1
            verdict["status"] = {"code": 403, "message": MESSAGE}
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": verdict}
