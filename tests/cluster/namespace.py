"""A namespace of a test's own, with what tests of the operator do in it."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kubetune import names
from kubetune.api import API_VERSION, JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.api.kinds.table import BY_KIND
from kubetune.api.run.outcome import Outcome
from kubetune.clients.kubernetes import CORE_KINDS, KubernetesClient
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.api_client import ApiClient
from tests.cluster.support import eventually

SCRIPTED = Path(__file__).parent / "scripted_training"
MERGE_PATCH = "application/merge-patch+json"
TOLERATION = {"key": "kubetune.io/process-node", "operator": "Exists"}
ROWS = [{"prompt": f"question {at}", "completion": f"answer {at}"} for at in range(20)]
TRAINED = Outcome(status="succeeded", reason="Trained", summary={"metrics": {"eval_loss": 0.5}})


class Namespace:
    """A namespace with pod security restricted, a volume, and a default target.

    The target's trainings are scripted, its inspections real. ``files`` is the folder behind
    the claim ``files``.
    """

    def __init__(self, cluster: LocalCluster, tracking_uri: str | None = None) -> None:
        self.cluster = cluster
        self.namespace = f"test-{os.urandom(4).hex()}"
        # Pods have a /tmp of their own, but volumes are mounted into them wherever they are.
        self._folder = Path(tempfile.mkdtemp())
        self._api = ApiClient(cluster.kubeconfig, self._folder)
        self._scripts = self._folder / "scripts"
        self.files = self._folder / "files"
        self.request("POST", "/api/v1/namespaces", _namespace(self.namespace))
        for name, folder in (("scripts", self._scripts), ("files", self.files)):
            folder.mkdir()
            self._claim(name, folder)
        self.create("ComputeTarget", "scripted", self.target(tracking_uri), **DEFAULT_TARGET)

    def close(self) -> None:
        """Delete the namespace; it goes by itself, and what runs in it."""
        for job in self.objects("Job"):
            # Ended at once: nobody waits for its grace.
            self.end_run((job["metadata"].get("labels") or {}).get(names.RUN_KEY, ""))
        self._api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
        self._api.close()

    def target(self, tracking_uri: str | None = None, **kubernetes: Any) -> JsonObject:
        """Spec of a ComputeTarget with scripted trainings."""
        return {
            "kubernetes": {
                "image": "kubetune.local/runner:test",
                "nodeSelector": {"kubetune.io/process-node": "true"},
                "tolerations": [TOLERATION],
                "env": [{"name": "PYTHONPATH", "value": str(SCRIPTED)}],
                "volumes": [{"name": "scripts", "claimName": "scripts", "mountPath": "/scripts"}],
                "resources": {"cpu": "50m", "memory": "64Mi"},
                **kubernetes,
            },
            "tracking": {"uri": tracking_uri or self.cluster.mlflow_url},
        }

    def scripted_target(self, name: str, **kubernetes: Any) -> JsonObject:
        """Make a ComputeTarget on which inspections and evaluations are scripted, too.

        How an object names it.
        """
        spec = self.target(**kubernetes)
        spec["kubernetes"]["env"] += [{"name": "SCRIPTED", "value": "all"}]
        self.create("ComputeTarget", name, spec)
        self.ready("ComputeTarget", name)
        return {"computeTargetRef": {"kind": "ComputeTarget", "name": name}}

    # --- objects

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str | None = None,
    ) -> JsonObject:
        """One request as administrator, which must succeed; PATCH is a merge patch."""
        status, answer = self.try_request(method, path, body, content_type)
        assert status < 300, (method, path, answer.get("message"))
        return answer

    def try_request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str | None = None,
    ) -> tuple[int, JsonObject]:
        """One request as administrator: the answer with its status."""
        given = content_type or (MERGE_PATCH if method == "PATCH" else "application/json")
        return self._api.request(method, path, body, given)

    def create(self, kind: str, name: str, spec: Any = None, **fields: Any) -> JsonObject:
        """Make an object; ``fields`` are further metadata, or top-level fields of core kinds."""
        api_version = API_VERSION if kind in BY_KIND else CORE_KINDS[kind][0]
        metadata = {key: fields.pop(key) for key in ("annotations", "labels") if key in fields}
        body = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, **metadata},
            **({"spec": spec} if spec is not None else {}),
            **fields,
        }
        return self.request("POST", self.path(kind) + "?fieldValidation=Strict", body)

    def created(self, kind: str, name: str, spec: Any) -> bool:
        """Try to make an object; False when it is refused, as while a CRD is being changed."""
        try:
            self.create(kind, name, spec)
        except AssertionError:
            return False
        return True

    def find(self, kind: str, name: str) -> JsonObject | None:
        """An object, None when it isn't there."""
        status, body = self._api.request("GET", self.path(kind, name))
        return body if status == 200 else None

    def get(self, kind: str, name: str) -> JsonObject:
        """An object that must be there."""
        return self.request("GET", self.path(kind, name))

    def objects(self, kind: str) -> list[JsonObject]:
        """All objects of a kind."""
        return self.request("GET", self.path(kind))["items"]

    def patch(self, kind: str, name: str, patch: JsonObject, subresource: str = "") -> JsonObject:
        """Merge-patch an object."""
        path = self.path(kind, name) + (f"/{subresource}" if subresource else "")
        return self.request("PATCH", path, patch)

    def replace(self, kind: str, name: str, **spec: Any) -> JsonObject:
        """Replace an object by a file that has nothing but its spec, as kubectl replace does.

        ``spec`` are fields that the file has changed.
        """
        answer: JsonObject = {}

        def accepted() -> bool:
            nonlocal answer
            there = self.get(kind, name)
            file = {key: there[key] for key in ("apiVersion", "kind", "spec")}
            file["spec"] |= spec
            # kubectl looks the version up, too, and says so when it was too slow.
            version = there["metadata"]["resourceVersion"]
            file["metadata"] = {"name": name, "resourceVersion": version}
            status, answer = self.try_request("PUT", self.path(kind, name), file)
            assert status in (200, 409), answer.get("message")
            return status == 200

        eventually(accepted)
        return answer

    def delete(self, kind: str, name: str, propagation: str = "Background") -> None:
        """Delete an object; ``Orphan`` leaves what it owns."""
        options = {"propagationPolicy": propagation}
        self.request("DELETE", self.path(kind, name), options)

    def path(self, kind: str, name: str | None = None) -> str:
        """The API path of a kind in this namespace, or of one object."""
        cluster_wide = kind in BY_KIND and not BY_KIND[kind].namespaced
        return KubernetesClient.path(kind, None if cluster_wide else self.namespace, name)

    # --- waiting

    def until(
        self,
        kind: str,
        name: str,
        holds: Callable[[JsonObject], object],
        seconds: float = 60,
    ) -> JsonObject:
        """The object once it is as asked for; its status is shown when it never is."""
        body: JsonObject = {}

        def settled() -> bool:
            nonlocal body
            body = self.find(kind, name) or {}
            return bool(body and holds(body))

        try:
            eventually(settled, seconds)
        except AssertionError:
            status = json.dumps(body.get("status"), indent=1)
            raise AssertionError(f"{kind} {name} after {seconds} s: {status}") from None
        return body

    def ready(self, kind: str, name: str, seconds: float = 60) -> JsonObject:
        """The status of an object once it is Ready."""
        return self.until(kind, name, lambda o: condition(o, "Ready")[0] == "True", seconds)[
            "status"
        ]

    def waits(self, kind: str, name: str, reason: str, seconds: float = 60) -> str:
        """The message of Ready once it is False for this reason."""
        wanted = ("False", reason)
        body = self.until(kind, name, lambda o: condition(o, "Ready")[:2] == wanted, seconds)
        return condition(body, "Ready")[2]

    def stalls(self, kind: str, name: str, reason: str, seconds: float = 60) -> str:
        """The message of Stalled once only a change by the user helps, for this reason."""
        wanted = ("True", reason)
        body = self.until(kind, name, lambda o: condition(o, "Stalled")[:2] == wanted, seconds)
        return condition(body, "Stalled")[2]

    def phase(self, job: str, phase: str, seconds: float = 60) -> JsonObject:
        """The job once it is in a phase."""
        ends = {"Succeeded", "Failed", phase}
        body = self.until("FineTuneJob", job, lambda o: phase_of(o) in ends, seconds)
        assert phase_of(body) == phase, json.dumps(body["status"], indent=1)
        return body

    # --- inputs and jobs

    def inputs(self) -> None:
        """A Dataset ``rows``, a Model ``base`` and a PromptTemplate ``ask``, all Ready."""
        from tests.runners.inspection_fixtures import model_files, write

        write(self.files / "base", model_files())
        self.create("Dataset", "rows", {"source": {"inline": {"rows": ROWS}}})
        self.create("Model", "base", {"source": volume("base")})
        self.create("PromptTemplate", "ask", {"prompt": "{prompt}", "completion": "{completion}"})
        for kind, name in (("Dataset", "rows"), ("Model", "base"), ("PromptTemplate", "ask")):
            self.ready(kind, name)

    def job(self, name: str, **spec: Any) -> JsonObject:
        """Make a FineTuneJob on ``base``, ``rows`` and ``ask``, or on what ``spec`` names."""
        given = {
            "modelRef": {"name": "base"},
            "datasetRef": {"name": "rows"},
            "promptRef": {"name": "ask"},
            "hyperparameters": {"maxSteps": 1},
        }
        return self.create("FineTuneJob", name, given | spec)

    def runs(self, owner: str, owner_kind: str = "FineTuneJob") -> list[JsonObject]:
        """The batch Jobs of an object's attempts."""
        return self.children("Job", owner, owner_kind)

    def children(self, kind: str, owner: str, owner_kind: str = "FineTuneJob") -> list[JsonObject]:
        """Jobs, pods or ConfigMaps that were made for an object, orphans as well."""
        return [
            item
            for item in self.objects(kind)
            if (item["metadata"].get("labels") or {}).get(names.OWNER_KIND) == owner_kind
            and annotations(item).get(names.OWNER_NAME) == owner
        ]

    def run_key(self, job: str) -> str:
        """The job's run key, once it has one."""
        body = self.until("FineTuneJob", job, lambda o: names.RUN_KEY in annotations(o))
        return annotations(body)[names.RUN_KEY]

    def end(
        self, job: str, attempt: int = 1, code: int = 0, outcome: Outcome | None = TRAINED
    ) -> None:
        """Have an attempt of a job end, now or as soon as it starts."""
        self.end_run(self.run_key(job), attempt, code, outcome)

    def end_run(
        self,
        run_key: str,
        attempt: int = 1,
        code: int = 0,
        outcome: Outcome | None = TRAINED,
        worker: int | None = None,
    ) -> None:
        """Have an attempt end, or one of its workers."""
        own = "" if worker is None else f".{worker}"
        script = self._scripts / f"{run_key}.{attempt}{own}.json"
        told = {"code": code, "outcome": outcome.to_json() if outcome else None}
        temporary = script.with_suffix(".new")
        temporary.write_text(json.dumps(told))
        temporary.rename(script)

    # --- inside

    def _claim(self, name: str, folder: Path) -> None:
        volume_name = f"{self.namespace}-{name}"
        common = {"accessModes": ["ReadWriteMany"]}
        claim = {
            **common,
            "volumeName": volume_name,
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Mi"}},
        }
        disk = {
            **common,
            "capacity": {"storage": "1Mi"},
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": self.namespace, "name": name},
            "persistentVolumeReclaimPolicy": "Retain",
        }
        for kind, path, named, spec in (
            ("PersistentVolume", "/api/v1/persistentvolumes", volume_name, disk),
            (
                "PersistentVolumeClaim",
                f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims",
                name,
                claim,
            ),
        ):
            metadata = {"name": named, "labels": {USE_LABEL: "data.checkpoint.target"}}
            body = {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}
            self.request("POST", path, body)


DEFAULT_TARGET: Mapping[str, Any] = {"annotations": {"kubetune.io/is-default-target": "true"}}


def volume(path: str) -> JsonObject:
    """Source of a Model in the folder ``files`` of a workspace."""
    return {"volume": {"claimName": "files", "path": path}}


def condition(body: JsonObject, kind: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition that is about the present spec."""
    generation = body["metadata"]["generation"]
    status = body.get("status") or {}
    for found in status.get("conditions") or ():
        if found["type"] == kind and status.get("observedGeneration") == generation:
            return found["status"], found["reason"], found["message"]
    return "", "", ""


def phase_of(body: JsonObject) -> str:
    """The phase, empty before the first look."""
    return (body.get("status") or {}).get("phase", "")


def annotations(body: JsonObject) -> dict[str, str]:
    """The annotations."""
    return body["metadata"].get("annotations") or {}


def _namespace(name: str) -> JsonObject:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
