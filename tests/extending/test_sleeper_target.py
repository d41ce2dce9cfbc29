"""A third type of target in a copy of the code: an operator takes jobs there from apply to the end.

All that the copy has beside are a folder in targets/, a block in the API, and rows in tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.crds import Crds
from tests.cluster.namespace import ROWS, TRAINED, Namespace, condition, volume
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import BASE, READ
from tests.cluster.support import eventually
from tests.extending.toys import Checkout, Toy

HOUR = 3600
ROOMS = ("operator/kubetune/api/kinds/compute_target/", "operator/kubetune/targets/")
COLUMNS = [{"name": name, "type": "string"} for name in ("prompt", "completion")]
OUTCOMES = {
    "train": TRAINED,
    "inspectDataset": Outcome(
        status="succeeded", reason="Inspected", summary=READ.to_json() | {"columns": COLUMNS}
    ),
    "inspectModel": Outcome(status="succeeded", reason="Inspected", summary=BASE.to_json()),
}
"""How runs end, by the kind of their plan."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("copy") / "checkout", Toy("target"))
    checkout.generate()
    return checkout


@pytest.fixture(scope="module")
def operator_with_it(
    cluster: LocalCluster, operator_process: Operator, checkout: Checkout
) -> Iterator[Operator]:
    """The operator of the copy, and its CRDs; afterwards everybody's again."""
    operator_process.stop()
    options = ("--server-side", "--force-conflicts", "--field-manager=kubetune-local")
    cluster.kubectl("apply", *options, "-k", str(checkout.folder / "crds"))
    operator_process.start(environment=checkout.environment)
    yield operator_process
    operator_process.stop()
    Crds(cluster).apply()
    operator_process.start()


def on(target: str) -> dict[str, object]:
    """How an object names its target."""
    return {"computeTargetRef": {"kind": "ComputeTarget", "name": target}}


def sleeps(attempt: Path) -> bool:
    """Whether the process of an attempt lives."""
    pid = attempt / "pid"
    return pid.exists() and Path(f"/proc/{pid.read_text()}/exe").exists()


@dataclass(frozen=True)
class Dormitory:
    """A namespace with targets whose runs sleep in a folder: ``naps`` a second, ``sleeps`` long."""

    space: Namespace
    folder: Path

    def target(self, name: str, seconds: int, folder: Path | None = None) -> None:
        """Make a target."""
        tracking = {"uri": self.space.cluster.mlflow_url}
        sleeper = {"folder": str(folder or self.folder), "seconds": seconds}
        self.space.create("ComputeTarget", name, {"sleeper": sleeper, "tracking": tracking})

    def asleep(self, job: str, attempt: int = 1) -> Path:
        """The folder of a job's attempt once it sleeps."""
        self.space.phase(job, "Running")
        folder = self.folder / self.space.run_key(job) / str(attempt)
        eventually(lambda: sleeps(folder))
        return folder

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and wait until it is gone."""
        self.space.delete(kind, name)
        eventually(lambda: self.space.find(kind, name) is None)


@pytest.fixture(scope="module")
def at(
    cluster: LocalCluster, operator_with_it: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dormitory]:
    space, folder = Namespace(cluster), tmp_path_factory.mktemp("runs")
    for kind, outcome in OUTCOMES.items():
        (folder / f"{kind}.json").write_text(outcome.to_message())
    at = Dormitory(space, folder)
    at.target("naps", 1)
    at.target("sleeps", HOUR)
    source = {"huggingFace": {"repo": "somebody/base"}}
    space.create("Model", "base", {"source": source} | on("naps"))
    space.create("Dataset", "rows", {"source": {"inline": {"rows": ROWS}}} | on("naps"))
    space.create("PromptTemplate", "ask", {"prompt": "{prompt}", "completion": "{completion}"})
    for kind, name in (("Model", "base"), ("Dataset", "rows"), ("PromptTemplate", "ask")):
        space.ready(kind, name)
    yield at
    for kind in ("FineTuneJob", "Dataset", "Model"):
        for body in space.objects(kind):
            at.delete(kind, body["metadata"]["name"])
    space.close()


def test_nothing_that_decides_observes_or_loops_is_touched() -> None:
    toy = Toy("target")
    touched = [*toy.new, *(row.file for row in toy.rows)]
    assert touched
    assert [path for path in touched if not path.startswith(ROOMS)] == []


@pytest.mark.cluster
def test_a_job_goes_from_apply_to_succeeded(at: Dormitory) -> None:
    at.space.job("first", **on("naps"))
    status = at.space.phase("first", "Succeeded")["status"]
    external = status["external"]
    assert external["target"] == "ComputeTarget/naps"
    assert (external["type"], external["sleeper"]) == ("sleeper", {"folder": str(at.folder)})
    assert status["result"]["metrics"] == {"evalLoss": "0.5"}
    assert at.space.runs("first") == []
    # What outlives its owner goes with it.
    attempt = at.folder / at.space.run_key("first") / "1"
    assert (attempt / "outcome.json").exists()
    at.delete("FineTuneJob", "first")
    assert not attempt.exists()


@pytest.mark.cluster
def test_a_run_goes_on_without_an_operator(
    at: Dormitory, operator_with_it: Operator, checkout: Checkout
) -> None:
    at.target("dozes", 5)
    at.space.job("through", **on("dozes"))
    at.asleep("through")
    with operator_with_it.crashed():
        pass
    status = at.space.phase("through", "Succeeded")["status"]
    assert [item["number"] for item in status["attempts"]] == [1]


@pytest.mark.cluster
def test_a_suspended_job_stops_and_goes_on(at: Dormitory) -> None:
    at.space.job("paused", **on("sleeps"))
    first = at.asleep("paused")
    at.space.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    at.space.phase("paused", "Suspended")
    assert not sleeps(first)
    at.space.patch("FineTuneJob", "paused", {"spec": {"suspend": False}})
    at.asleep("paused", attempt=2)


@pytest.mark.cluster
def test_a_deleted_job_leaves_nothing(at: Dormitory) -> None:
    at.space.job("deleted", **on("sleeps"))
    attempt = at.asleep("deleted")
    at.delete("FineTuneJob", "deleted")
    assert not sleeps(attempt)
    assert not attempt.exists()


@pytest.mark.cluster
def test_what_cannot_be_mounted_is_refused_in_its_words(at: Dormitory) -> None:
    at.space.create("Model", "mounted", {"source": volume("base")} | on("naps"))
    told = "PersistentVolumeClaim files can't be mounted by a sleeper: take the files from a hub"
    at.space.until("Model", "mounted", lambda body: told in condition(body, "Ready")[2])


@pytest.mark.cluster
def test_a_target_waits_for_what_its_probe_misses(at: Dormitory) -> None:
    absent = at.folder / "absent"
    at.target("nowhere", 1, absent)
    message = at.space.waits("ComputeTarget", "nowhere", "TargetRefused")
    assert message == f"there is no folder {absent}: make it"
    absent.mkdir()
    at.space.ready("ComputeTarget", "nowhere")
