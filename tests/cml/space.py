"""A namespace whose default target is a project of the simulator."""

import base64
from collections.abc import Sequence
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.api.run.outcome import Outcome
from kubetune.names import ABANDON_RUNS
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml.server import Script, Simulator
from kubetune_devcluster.cml.server.records import Job, Run
from kubetune_devcluster.cml.server.scripts import FOREVER

from tests.cluster.namespace import DEFAULT_TARGET, MERGE_PATCH, ROWS, Namespace

SECRET = "cml-key"
FOR_TARGETS = {USE_LABEL: "target"}
TARGET = "workspace"
BASE_MODEL: JsonObject = {
    "type": "base",
    "revision": "sha256:0f",
    "architecture": "LlamaForCausalLM",
    "modelType": "llama",
    "parameters": 1000,
    "dtype": "float32",
    "contextLength": 2048,
    "sizeBytes": 4000,
}
READ_ROWS: JsonObject = {
    "digest": "sha256:0d",
    "splitDigest": "sha256:0d",
    "rows": {"train": 18, "evaluation": 2},
    "columns": [{"name": name, "type": "string"} for name in ROWS[0]],
}
INSPECTED = {
    kind: Outcome(status="succeeded", reason="Inspected", summary=summary)
    for kind, summary in (("Model", BASE_MODEL), ("Dataset", READ_ROWS))
}
QUICK = (("ENGINE_SCHEDULING", 0.1), ("ENGINE_RUNNING", 0.1))


class CmlSpace(Namespace):
    """A workspace of tests with a ComputeTarget in CML beside the one in the cluster."""

    def __init__(self, cluster: LocalCluster, simulator: Simulator) -> None:
        super().__init__(cluster)
        self.simulator = simulator
        self.scripts: dict[str, Script | Sequence[Script]] = {}
        """Lives of the runs of an object, by its name: one for all attempts, or one for each.

        Without one a FineTuneJob's run goes on until it is stopped.
        """
        simulator.script_for = self._script
        self.patch(
            "ComputeTarget", "scripted", {"metadata": {"annotations": dict.fromkeys(_DEFAULT)}}
        )
        self.key(simulator.api_key)
        self.create("ComputeTarget", TARGET, self.cml_target(), **DEFAULT_TARGET)

    def close(self) -> None:
        """Delete the namespace; what runs in the simulator, which ends too, is let go."""
        letting_go = {"metadata": {"annotations": {ABANDON_RUNS: "true"}}}
        for kind in ("FineTuneJob", "Evaluation", "Dataset", "Model", "ComputeTarget"):
            for item in self.objects(kind):
                self.try_patch(kind, item["metadata"]["name"], letting_go)
        super().close()

    def inputs(self) -> None:
        """A Dataset ``rows``, a Model ``base`` and a PromptTemplate ``ask``, all Ready.

        What inspections find in the project is scripted.
        """
        self.create("Dataset", "rows", {"source": {"inline": {"rows": ROWS}}})
        self.create("Model", "base", {"source": {"project": {"path": "base"}}})
        self.create("PromptTemplate", "ask", {"prompt": "{prompt}", "completion": "{completion}"})
        for kind, name in (("Dataset", "rows"), ("Model", "base"), ("PromptTemplate", "ask")):
            self.ready(kind, name)

    def cml_target(self, tracking: JsonObject | None = None, **cml: Any) -> JsonObject:
        """Spec of a ComputeTarget of type cml that looks at runs every second."""
        return {
            "cml": {
                "url": self.simulator.url,
                "project": self.simulator.project.id,
                "apiKeySecretRef": {"name": SECRET},
                "runtime": {"kernel": "Python 3.11"},
                "poll": {"minSeconds": 1, "maxSeconds": 2},
                "resources": {"cpu": "500m", "memory": "1Gi"},
                **cml,
            },
            "tracking": tracking or {"uri": self.cluster.mlflow_url},
        }

    def key(self, value: str) -> None:
        """Put an API key into the Secret, made when it isn't there."""
        data = {"apiKey": base64.b64encode(value.encode()).decode()}
        if self.find("Secret", SECRET):
            self.patch("Secret", SECRET, {"data": data})
        else:
            self.create("Secret", SECRET, data=data, labels=FOR_TARGETS)

    def try_patch(self, kind: str, name: str, patch: JsonObject) -> tuple[int, JsonObject]:
        """Status and answer of a merge patch that may be refused."""
        return self._api.request("PATCH", self.path(kind, name), patch, MERGE_PATCH)

    def cml_jobs(self, name: str) -> list[Job]:
        """The jobs in CML that were ever made for a FineTuneJob."""
        prefix = f"kubetune-{self.namespace}-{name}-"
        return [job for job in self.simulator.all_jobs() if job.name.startswith(prefix)]

    def cml_runs(self, name: str) -> list[Run]:
        """The runs in CML of a FineTuneJob, oldest first."""
        return [run for job in self.cml_jobs(name) for run in self.simulator.runs(job.id)]

    def _script(self, job: Job, run: Run) -> Script:
        kind, _, name = run.environment["KUBETUNE_OWNER"].split("/")
        given = self.scripts.get(name)
        if isinstance(given, Script):
            return given
        if given:
            return given[int(run.environment["KUBETUNE_ATTEMPT"]) - 1]
        if kind == "Model" or (kind, name) == ("Dataset", "rows"):
            return Script(steps=QUICK, outcome=INSPECTED[kind].to_json())
        return Script(steps=(("ENGINE_RUNNING", FOREVER),))


_DEFAULT = DEFAULT_TARGET["annotations"]
