"""The few MLflow REST calls of an inspection: importing the client costs seconds of CPU.

Credentials come from the environment by MLflow's own names. A server that isn't reached by
http, such as a CML workspace's, is left to the client.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from kubetune.api.bounded import DOCUMENT, check_size, json_object

from kubetune_runner.mlflow.tracking_api import MlflowError, TrackingApi

if TYPE_CHECKING:
    from collections.abc import Generator

    import requests

TIMEOUTS = (5.0, 20.0)
"""Seconds to connect, and without an answer."""


def open_api(uri: str) -> TrackingApi:
    """The server at an address."""
    if urlsplit(uri).scheme in ("http", "https"):
        return MlflowApi(uri)
    from kubetune_runner.mlflow.plugin import PluginApi

    return PluginApi(uri)


class MlflowApi:
    """A tracking server with its model registry and artifacts."""

    def __init__(self, uri: str) -> None:
        import requests

        if urlsplit(uri).scheme not in ("http", "https"):
            raise MlflowError(f"{uri} is no address of an MLflow server")
        self._uri = uri.rstrip("/")
        self._session = requests.Session()
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        bearer = os.environ.get("MLFLOW_TRACKING_TOKEN")
        if user:
            self._session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
        elif bearer:
            self._session.headers["Authorization"] = f"Bearer {bearer}"
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
            self._session.verify = False
        elif bundle := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
            self._session.verify = bundle

    def experiment(self, name: str) -> str:
        """Id of the experiment, created where it is missing."""
        for _ in range(2):  # another run may create it between the two calls
            try:
                found = self._json("GET", "experiments/get-by-name", {"experiment_name": name})
                return str(found["experiment"]["experiment_id"])
            except MlflowError as error:
                if error.status != 404:
                    raise
            try:
                made = self._json("POST", "experiments/create", {"name": name})
                return str(made["experiment_id"])
            except MlflowError as error:
                if error.status != 400:
                    raise
        raise MlflowError(f"experiment {name} neither exists nor can be created")

    def find_run(self, experiment: str, tag: str, value: str) -> tuple[str, str] | None:
        """Id and artifact root of the newest run with the tag."""
        found = self._json(
            "POST",
            "runs/search",
            {
                "experiment_ids": [experiment],
                "filter": f"tags.`{tag}` = '{value}'",
                "max_results": 1,
            },
        )
        runs = found.get("runs") or []
        return _identity(runs[0]) if runs else None

    def create_run(self, experiment: str, name: str, tags: dict[str, str]) -> tuple[str, str]:
        """Id and artifact root of a new run."""
        import time

        made = self._json(
            "POST",
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": name,
                "start_time": int(time.time() * 1000),
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )
        return _identity(made["run"])

    def finish_run(self, run_id: str) -> None:
        import time

        body = {"run_id": run_id, "status": "FINISHED", "end_time": int(time.time() * 1000)}
        self._json("POST", "runs/update", body)

    def put_artifact(self, root: str, name: str, document: Any) -> None:
        """Store a JSON document below an artifact root that the server proxies."""
        self.put_text(root, name, json.dumps(document, ensure_ascii=False, indent=1))

    def put_text(self, root: str, name: str, text: str) -> None:
        """Store a text below an artifact root that the server proxies."""
        data = text.encode(errors="replace")
        with self._request("PUT", self._artifact(root, name), data=data):
            pass

    def version(self, name: str, version: str | None, alias: str | None) -> str:
        """The version number behind a version or an alias; raises MlflowError with 404."""
        if alias is not None:
            found = self._json("GET", "registered-models/alias", {"name": name, "alias": alias})
        else:
            found = self._json(
                "GET", "model-versions/get", {"name": name, "version": version or ""}
            )
        return str(found["model_version"]["version"])

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        """Tags of a registered version."""
        found = self._json("GET", "model-versions/get", {"name": name, "version": version})
        tags: list[dict[str, str]] = found["model_version"].get("tags") or []
        return {tag["key"]: tag.get("value", "") for tag in tags}

    def version_root(self, name: str, version: str) -> str:
        """Artifact root of a registered version."""
        found = self._json(
            "GET", "model-versions/get-download-uri", {"name": name, "version": version}
        )
        return self.artifact_root(str(found["artifact_uri"]))

    def artifact_root(self, uri: str) -> str:
        """Where the artifacts are that ``models:/m-...`` or ``runs:/...`` stands for."""
        root = uri
        if root.startswith("models:/m-"):
            model_id = root.removeprefix("models:/").split("/")[0]
            logged = self._json("GET", f"logged-models/{model_id}", {})
            root = str(logged["model"]["info"]["artifact_uri"])
        elif root.startswith("runs:/"):
            run_id, _, path = root.removeprefix("runs:/").partition("/")
            found = self._json("GET", "runs/get", {"run_id": run_id})
            root = f"{_identity(found['run'])[1]}/{path}"
        return root

    def list_artifacts(self, root: str, folder: str = "") -> dict[str, int]:
        """Sizes of all files below a root that the server proxies, by relative path."""
        path = "/".join(part for part in (_proxied_path(root), folder) if part)
        url = f"{self._uri}/api/2.0/mlflow-artifacts/artifacts"
        with self._request("GET", url, params={"path": path}, stream=True) as response:
            entries: list[dict[str, Any]] = _document(response).get("files") or []
        files: dict[str, int] = {}
        for entry in entries:
            name = str(entry["path"]).rsplit("/", 1)[-1]
            relative = f"{folder}/{name}" if folder else name
            if entry.get("is_dir"):
                files.update(self.list_artifacts(root, relative))
            else:
                files[relative] = int(entry.get("file_size") or 0)
        return files

    @contextmanager
    def open_artifact(self, root: str, name: str) -> Generator[Iterator[bytes]]:
        """The file's bytes in chunks; only what is taken is transferred, more or less."""
        with self._request("GET", self._artifact(root, name), stream=True) as response:
            yield response.iter_content(64 * 1024)

    def _artifact(self, root: str, name: str) -> str:
        path = quote(f"{_proxied_path(root)}/{name}")
        return f"{self._uri}/api/2.0/mlflow-artifacts/artifacts/{path}"

    def _json(self, method: str, call: str, body: dict[str, Any]) -> dict[str, Any]:
        url = f"{self._uri}/api/2.0/mlflow/{call}"
        arguments: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        with self._request(method, url, stream=True, **arguments) as response:
            return _document(response)

    @contextmanager
    def _request(self, method: str, url: str, **arguments: Any) -> Generator[requests.Response]:
        import requests

        try:
            with self._session.request(method, url, timeout=TIMEOUTS, **arguments) as response:
                if response.status_code >= 400:
                    raise MlflowError(
                        f"the MLflow server answers {response.status_code}", response.status_code
                    )
                yield response
        except (requests.RequestException, ValueError) as error:
            raise MlflowError(
                f"the MLflow server can't be reached ({error.__class__.__name__})"
            ) from error


def _document(response: requests.Response) -> dict[str, Any]:
    """The JSON object that a server answers. Raises ValueError."""
    data = bytearray()
    for piece in response.iter_content(64 * 1024):
        data += piece
        check_size(data, DOCUMENT)
    return json_object(data, DOCUMENT)


def is_proxied(root: str) -> bool:
    """Whether the server hands out the artifacts itself."""
    return root.startswith("mlflow-artifacts:/")


def _proxied_path(root: str) -> str:
    if not is_proxied(root):
        raise MlflowError(f"artifacts below {urlsplit(root).scheme}: aren't served by MLflow")
    return urlsplit(root).path.strip("/")


def _identity(run: dict[str, Any]) -> tuple[str, str]:
    return str(run["info"]["run_id"]), str(run["info"]["artifact_uri"])
