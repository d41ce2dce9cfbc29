"""What is deleted while the operator can't see it is noticed when it can see again."""

import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from kubetune import names
from kubetune.api.kinds.table import BY_KIND
from kubetune.handlers import WATCHED
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.api_proxy import ApiProxy
from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

# The one of the cluster runs beside that of a namespace.
BOUNDS = {
    "KUBETUNE_WATCH_SILENCE_SECONDS": "4",
    "KUBETUNE_QUEUE_WAIT_SECONDS": "5",
    "KUBETUNE_LEASE_SECONDS": "0",
}
TARGET = {"kubernetes": {"image": "runner:1"}, "tracking": {"uri": "http://mlflow.invalid:5000"}}
REFERENCES = {"modelRef": {"name": "absent"}, "datasetRef": {"name": "absent"}}
CONTAINER = {
    "name": "main",
    "image": "none",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
POD = {"restartPolicy": "Never", "containers": [CONTAINER], "nodeSelector": {"no": "node"}}
SPECS: dict[str, Any] = {
    "Dataset": {"source": {"configMap": {"name": "absent", "key": "rows.csv", "format": "csv"}}},
    "Model": {"source": {"fineTuneJob": {"name": "absent"}}},
    "PromptTemplate": {"prompt": "{q}", "completion": "{a}"},
    "FineTuneJob": REFERENCES,
    "Evaluation": {
        "candidates": [{"name": "a", "modelRef": {"name": "absent"}}],
        "datasetRef": {"name": "absent"},
    },
    "ComputeTarget": TARGET,
    "ClusterComputeTarget": TARGET,
    "TuningProfile": {"backoffLimit": 0},
    "ClusterTuningProfile": {"backoffLimit": 0},
    "Job": {"suspend": True, "template": {"spec": POD}},
    "Pod": POD,
    "ConfigMap": None,
}
PLURALS = {
    kind: BY_KIND[kind].plural if kind in BY_KIND else f"{kind.lower()}s" for kind in WATCHED
}


class Distant:
    """An operator behind a proxy, and a namespace that it watches, alone or among others."""

    def __init__(
        self, cluster: LocalCluster, proxy: ApiProxy, operator: Operator, alone: bool
    ) -> None:
        self.proxy = proxy
        self.operator = operator
        self.space = Namespace(cluster)
        self._namespace = self.space.namespace if alone else None
        self._arguments = ("--namespace", self.space.namespace) if alone else ()

    def start(self) -> None:
        """Begin anew."""
        environment = BOUNDS | {"KUBECONFIG": str(self.proxy.kubeconfig)}
        self.operator.start(environment=environment, arguments=self._arguments)

    def knows_all(self, kind: str) -> bool:
        """Whether the operator knows of as many objects as there are."""
        scoped = self._namespace and (kind not in BY_KIND or BY_KIND[kind].namespaced)
        path = self.space.path(kind)
        if not scoped:
            path = path.replace(f"/namespaces/{self.space.namespace}", "")
        selector = f"?labelSelector={WATCHED[kind]}" if WATCHED[kind] else ""
        return self.operator.known(kind) == len(self.space.request("GET", path + selector)["items"])

    def make(self, kind: str, name: str) -> None:
        """An object of a kind that stays as it is."""
        labels = {"labels": {names.RUN_KEY: name}} if kind in ("Job", "Pod") else {}
        self.space.create(kind, name, SPECS[kind], **labels)

    def destroy(self, kind: str, name: str) -> None:
        """Delete an object whatever holds it, and see it gone."""
        self.space.patch(kind, name, {"metadata": {"finalizers": None}})
        self.space.delete(kind, name)
        eventually(lambda: self.space.find(kind, name) is None)


@pytest.fixture(scope="module", params=["cluster", "namespace"])
def everywhere(
    cluster: LocalCluster,
    operator_process: Operator,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Distant]:
    """An operator of the whole cluster, and one of a namespace."""
    yield from distant(
        cluster, operator_process, tmp_path_factory, alone=request.param == "namespace"
    )


@pytest.fixture(scope="module")
def one(
    cluster: LocalCluster, operator_process: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Distant]:
    """An operator of one namespace, with ready inputs."""
    for found in distant(cluster, operator_process, tmp_path_factory, alone=True):
        found.space.inputs()
        yield found


def distant(
    cluster: LocalCluster,
    session_operator: Operator,
    folders: pytest.TempPathFactory,
    alone: bool,
) -> Iterator[Distant]:
    session_operator.stop()
    with ApiProxy(cluster.kubeconfig, folders.mktemp("proxy")) as proxy:
        found = Distant(cluster, proxy, Operator(cluster, folders.mktemp("distant")), alone)
        found.start()
        yield found
        found.operator.stop()
        found.space.close()


@pytest.fixture(autouse=True)
def shown(request: pytest.FixtureRequest) -> Iterator[None]:
    """The log of the operator is shown when a test fails."""
    found = next(
        request.getfixturevalue(name)
        for name in ("everywhere", "one")
        if name in request.fixturenames
    )
    offset = found.operator.log_size()
    yield
    found.proxy.refused.clear()
    found.proxy.silent.clear()
    found.proxy.held = ""
    found.proxy.mend()
    print(found.operator.log_since(offset))
    if found.operator.ended():
        found.start()


@pytest.mark.parametrize("kind", sorted(WATCHED))
def test_a_deletion_while_the_watch_is_down_is_noticed(everywhere: Distant, kind: str):
    name = f"lost-{kind.lower()}"
    everywhere.make(kind, name)
    eventually(lambda: everywhere.knows_all(kind))
    everywhere.proxy.cut()
    everywhere.destroy(kind, name)
    everywhere.proxy.mend(expired=[PLURALS[kind]])
    eventually(lambda: not everywhere.proxy.expired, 30)
    eventually(lambda: everywhere.knows_all(kind), 30)
    everywhere.make(kind, f"{name}-later")
    eventually(lambda: everywhere.knows_all(kind), 30)
    everywhere.destroy(kind, f"{name}-later")


@pytest.mark.parametrize("kind", sorted(WATCHED))
def test_a_deletion_before_the_watch_goes_on_is_noticed(everywhere: Distant, kind: str):
    """One watch alone breaks, and its version is still known: it tells of the deletion itself."""
    name = f"missed-{kind.lower()}"
    everywhere.make(kind, name)
    eventually(lambda: everywhere.knows_all(kind))
    # A write of its own that is under way would tell it, too.
    eventually(lambda: everywhere.operator.gauge("kubetune_queue_length") == 0)
    everywhere.proxy.silent.add(PLURALS[kind])
    everywhere.proxy.break_off(PLURALS[kind])
    everywhere.destroy(kind, name)
    assert not everywhere.knows_all(kind)
    everywhere.proxy.silent.clear()
    everywhere.proxy.break_off(PLURALS[kind])
    eventually(lambda: everywhere.knows_all(kind), 30)


def test_a_run_that_vanished_is_repeated_suspended_and_deleted(one: Distant):
    jobs, proxy = one.space, one.proxy
    for name in ("repeated", "suspended", "deleted"):
        jobs.job(name, backoffLimit=1)
        jobs.phase(name, "Running")
    proxy.cut()
    for name in ("repeated", "suspended", "deleted"):
        (run,) = jobs.runs(name)
        one.destroy("Job", run["metadata"]["name"])
    jobs.patch("FineTuneJob", "suspended", {"spec": {"suspend": True}})
    jobs.delete("FineTuneJob", "deleted")
    proxy.mend(expired=["jobs", "pods"])
    jobs.phase("suspended", "Suspended")
    eventually(lambda: jobs.find("FineTuneJob", "deleted") is None)
    jobs.end("repeated", attempt=2)
    body = jobs.phase("repeated", "Succeeded")
    assert [item["result"] for item in body["status"]["attempts"]][1] == "Succeeded"


def test_inputs_that_vanished_are_missed_by_name(one: Distant):
    jobs = one.space
    jobs.create("TuningProfile", "gone", {"backoffLimit": 0})
    for kind, spec in (("Dataset", SPECS["Dataset"]), ("Model", SPECS["Model"])):
        jobs.create(kind, "gone", spec)
    jobs.create("PromptTemplate", "gone", SPECS["PromptTemplate"])
    jobs.create("ComputeTarget", "gone", TARGET)
    profile = {"kind": "TuningProfile", "name": "gone"}
    target = {"kind": "ComputeTarget", "name": "gone"}
    # Each waits for something that nothing makes ready, so that none begins.
    waiting: dict[str, dict[str, Any]] = {
        "DatasetMissing": {"datasetRef": {"name": "gone"}},
        "ModelMissing": {"modelRef": {"name": "gone"}},
        "PromptTemplateMissing": {"promptRef": {"name": "gone"}},
        "TuningProfileMissing": {"profileRef": profile, "datasetRef": {"name": "stuck"}},
        "TargetMissing": {"computeTargetRef": target, "datasetRef": {"name": "stuck"}},
    }
    jobs.create("Dataset", "stuck", SPECS["Dataset"])
    for reason, spec in waiting.items():
        jobs.job(reason.lower(), **spec)
    for reason in waiting:
        jobs.until("FineTuneJob", reason.lower(), lambda o: condition(o, "Ready")[1])
    one.proxy.cut()
    kinds = ("Dataset", "Model", "PromptTemplate", "TuningProfile", "ComputeTarget")
    for kind in kinds:
        one.destroy(kind, "gone")
    one.proxy.mend(expired=[PLURALS[kind] for kind in kinds])
    for reason in waiting:
        assert "gone" in jobs.waits("FineTuneJob", reason.lower(), reason, 30)


def test_a_run_that_is_not_found_at_its_stop_is_stopped(one: Distant):
    """The watch of Jobs is mute: what stop and delete are told is all that there is."""
    jobs, proxy = one.space, one.proxy
    for name in ("halted", "removed"):
        jobs.job(name)
        jobs.phase(name, "Running")
    proxy.silent = {"jobs", "pods"}
    for plural in ("jobs", "pods"):
        proxy.break_off(plural)
    for name in ("halted", "removed"):
        (run,) = jobs.runs(name)
        one.destroy("Job", run["metadata"]["name"])
    jobs.patch("FineTuneJob", "halted", {"spec": {"suspend": True}})
    jobs.delete("FineTuneJob", "removed")
    jobs.phase("halted", "Suspended", seconds=20)
    eventually(lambda: jobs.find("FineTuneJob", "removed") is None, 20)
    assert proxy.silent


def test_an_object_that_is_not_found_at_a_write_is_forgotten(one: Distant):
    one.make("Dataset", "unwritten")
    one.space.waits("Dataset", "unwritten", "ConfigMapMissing")
    one.proxy.silent = {"datasets"}
    one.proxy.break_off("datasets")
    one.destroy("Dataset", "unwritten")
    # The ConfigMap that it waited for wakes it.
    one.space.create("ConfigMap", "absent", data={"rows.csv": "q,a\n1,2\n"})
    eventually(lambda: one.knows_all("Dataset"), 30)
    assert one.proxy.silent


@pytest.mark.parametrize("status", [403, 404, 410, 500])
def test_a_watch_that_is_refused_goes_on_when_it_may(one: Distant, status: int):
    name = f"refused-{status}"
    one.make("TuningProfile", name)
    eventually(lambda: one.knows_all("TuningProfile"))
    one.proxy.refused["tuningprofiles"] = status
    one.proxy.break_off("tuningprofiles")
    eventually(lambda: one.proxy.asked[-50:].count("tuningprofiles") > 1 or status == 500)
    one.destroy("TuningProfile", name)
    assert not one.operator.ended()
    one.proxy.refused.clear()
    eventually(lambda: one.knows_all("TuningProfile"), 30)
    one.make("TuningProfile", f"{name}-later")
    eventually(lambda: one.knows_all("TuningProfile"), 30)


def test_a_glitch_that_says_404_loses_no_object(one: Distant):
    """An object counts as gone with its kind when the API server says so of the kind."""
    one.make("TuningProfile", "steady")
    eventually(lambda: one.knows_all("TuningProfile"))
    one.proxy.refused["tuningprofiles"] = 404
    one.proxy.break_off("tuningprofiles")
    asked = len(one.proxy.asked)
    eventually(lambda: one.proxy.asked[asked:].count("tuningprofiles") > 6)
    assert one.knows_all("TuningProfile")
    one.proxy.refused.clear()


def test_a_mute_watch_is_begun_anew_and_reported(one: Distant):
    one.proxy.silent = {"models"}
    one.proxy.break_off("models")
    one.make("Model", "unheard")
    eventually(lambda: failing(one), 60)
    status, text = one.operator.health()
    assert status == 503
    assert "the watch of Model in" in text
    assert "Dataset" not in text
    one.proxy.silent.clear()
    # Nobody breaks the mute connection: the operator gives it up.
    eventually(lambda: one.knows_all("Model"), 30)
    eventually(lambda: not failing(one), 30)


def test_an_object_that_waits_too_long_to_be_looked_at_is_reported(one: Distant):
    one.proxy.held = "/finetunejobs/stuck"
    one.make("FineTuneJob", "stuck")
    one.make("FineTuneJob", "other")
    one.space.until("FineTuneJob", "other", lambda found: "status" in found)
    # Its first look never ends, and it has news.
    one.space.patch("FineTuneJob", "stuck", {"metadata": {"annotations": {"looked": "at"}}})
    eventually(lambda: failing(one), 30)
    status, text = one.operator.health()
    assert status == 503
    assert f"FineTuneJob {one.space.namespace}/stuck has waited for" in text
    one.proxy.held = ""
    one.space.until("FineTuneJob", "stuck", lambda found: "status" in found)
    eventually(lambda: not failing(one), 30)


def test_an_api_server_that_is_away_is_no_reason_to_end_the_operator(one: Distant):
    one.proxy.cut()
    asked = len(one.proxy.asked)
    # Longer than the watches may be silent; the operator itself tells the time.
    eventually(lambda: silence(one) > 15, 60)
    assert one.operator.health()[0] == 200
    assert len(one.proxy.asked) == asked
    one.proxy.mend()
    one.make("Model", "afterwards")
    eventually(lambda: one.knows_all("Model"), 30)


def failing(distant: Distant) -> bool:
    return distant.operator.health()[0] != 200


def silence(distant: Distant) -> float:
    """Seconds since the watch of Models has shown anything."""
    name = 'kubetune_watch_shown_timestamp_seconds{kind="Model"'
    line = next(line for line in distant.operator.metrics().splitlines() if line.startswith(name))
    return time.time() - float(line.split()[-1])


def test_a_restarted_api_server_whose_history_is_gone(one: Distant, cluster: LocalCluster):
    jobs = one.space
    jobs.job("survivor")
    jobs.phase("survivor", "Running")
    one.make("Dataset", "before")
    eventually(lambda: one.knows_all("Dataset"))
    one.proxy.cut()
    (run,) = jobs.runs("survivor")
    one.destroy("Job", run["metadata"]["name"])
    one.destroy("Dataset", "before")
    restart_api_server(cluster)
    one.proxy.mend()
    jobs.end("survivor", attempt=2)
    jobs.phase("survivor", "Succeeded", seconds=90)
    eventually(lambda: one.knows_all("Dataset"), 30)


def restart_api_server(cluster: LocalCluster) -> None:
    """Kill it, compact what its store remembers of the past, and start it again."""
    found = {part.name: part for part in cluster.status().components}
    server = psutil.Process(found["kube-apiserver"].pid)
    server.kill()
    server.wait(30)
    pki = cluster.home / "pki"
    context = ssl.create_default_context(cafile=str(pki / "etcd-ca.crt"))
    context.load_cert_chain(pki / "etcd.crt", pki / "etcd.key")

    def etcd(path: str, body: dict[str, Any]) -> dict[str, Any]:
        url = f"{found['etcd'].address}/v3/{path}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return json.load(answer)

    revision = etcd("maintenance/status", {})["header"]["revision"]
    etcd("kv/compaction", {"revision": revision, "physical": True})
    cluster.up()
