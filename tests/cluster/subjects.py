"""Objects of each kind that has runs, on a target on which all runs do what a test tells them."""

from __future__ import annotations

import zlib
from typing import Any

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.kinds.inspection import DatasetInspection, ModelInspection
from kubetune.api.run.evaluation_plan import EvaluationSummary
from kubetune.api.run.outcome import Outcome

from tests.cluster.namespace import ROWS, TRAINED, Namespace, phase_of, volume
from tests.cluster.support import eventually

KINDS = ("FineTuneJob", "Evaluation", "Dataset", "Model")
MEASURED = EvaluationSummary.model_validate(
    {
        "metrics": {"exactMatch": {"value": 0.5}},
        "rows": 2,
        "rowsDigest": "sha256:0e",
        "runId": "0",
        "experimentId": "0",
    }
)
READ = DatasetInspection.model_validate(
    {
        "digest": "sha256:0d",
        "splitDigest": "sha256:0d",
        "rows": {"train": 18, "evaluation": 2},
        "columns": [],
    }
)
BASE = ModelInspection.model_validate(
    {
        "type": "base",
        "revision": "sha256:0b",
        "architecture": "LlamaForCausalLM",
        "modelType": "llama",
        "parameters": 1000,
        "contextLength": 2048,
        "chatTemplate": False,
    }
)
OUTCOMES = {
    "FineTuneJob": TRAINED,
    "Evaluation": Outcome(status="succeeded", reason="Evaluated", summary=MEASURED.to_json()),
    "Dataset": Outcome(status="succeeded", reason="Inspected", summary=READ.to_json()),
    "Model": Outcome(status="succeeded", reason="Inspected", summary=BASE.to_json()),
}


class Subjects:
    """Makes and ends them; ``target`` is how they name their target."""

    def __init__(self, space: Namespace, target: JsonObject) -> None:
        self._space = space
        self.target = target

    def make(self, kind: str, name: str, **spec: Any) -> None:
        """An object like no other: none is spared its run by what another has found."""
        number = zlib.crc32(name.encode())
        match kind:
            case "FineTuneJob":
                given: JsonObject = {
                    "modelRef": {"name": "base"},
                    "datasetRef": {"name": "rows"},
                    "promptRef": {"name": "ask"},
                    "hyperparameters": {"maxSteps": 1},
                }
            case "Evaluation":
                given = {
                    "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
                    "datasetRef": {"name": "rows"},
                    "promptRef": {"name": "ask"},
                    "metrics": ["exactMatch"],
                    "seed": number % 2**31,
                }
            case "Dataset":
                rows = [*ROWS, {"prompt": name, "completion": str(number)}]
                given = {"source": {"inline": {"rows": rows}}}
            case _:
                given = {"source": volume(name)}
        self._space.create(kind, name, given | self.target | spec)

    def pods(self, kind: str, name: str) -> list[JsonObject]:
        """Pods of an object that have not ended."""
        return [
            pod
            for pod in self._space.children("Pod", name, kind)
            if pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def running(self, kind: str, name: str, attempt: int = 1, seconds: float = 60) -> JsonObject:
        """The pod of an attempt once it runs, which must be the only one that lives."""

        def found() -> JsonObject | None:
            alive = self.pods(kind, name)
            assert len(alive) < 2, "two runs of one object at once"
            for pod in alive:
                runs = pod["status"].get("phase") == "Running"
                if runs and pod["metadata"]["labels"][names.ATTEMPT] == str(attempt):
                    return pod
            return None

        return eventually(found, seconds) or {}

    def run_key(self, pod: JsonObject) -> str:
        """The run key that a pod was made for."""
        return pod["metadata"]["labels"][names.RUN_KEY]

    def end(self, kind: str, pod: JsonObject) -> None:
        """Have a run end well."""
        attempt = int(pod["metadata"]["labels"][names.ATTEMPT])
        self._space.end_run(self.run_key(pod), attempt, outcome=OUTCOMES[kind])

    def done(self, kind: str, name: str) -> JsonObject:
        """The object once its run has ended well."""
        if kind in ("Dataset", "Model"):
            self._space.ready(kind, name)
            return self._space.get(kind, name)
        ends = ("Succeeded", "Failed")
        body = self._space.until(kind, name, lambda o: phase_of(o) in ends)
        assert phase_of(body) == "Succeeded", body["status"]
        return body
