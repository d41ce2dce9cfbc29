"""Runs are followed, stopped and deleted where they were started, whatever became of the target."""

from typing import Any

import pytest
from kubetune.names import ABANDON_RUNS, FINALIZER

from tests.cluster.namespace import DEFAULT_TARGET, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.lives import RUNNING, attempts, ended, staying
from tests.cml.space import INSPECTED, SECRET, TARGET, CmlSpace

pytestmark = pytest.mark.cluster


def replace_target(space: CmlSpace, name: str, spec: dict[str, Any]) -> None:
    """Delete a target by force and make another one of its name."""
    space.patch("ComputeTarget", name, {"metadata": {"annotations": {ABANDON_RUNS: "true"}}})
    space.delete("ComputeTarget", name)
    eventually(lambda: space.find("ComputeTarget", name) is None)
    space.create("ComputeTarget", name, spec, **(DEFAULT_TARGET if name == TARGET else {}))
    space.ready("ComputeTarget", name)


def hub_model(space: CmlSpace) -> dict[str, Any]:
    """Inputs that every target reaches, and how a job names them."""
    space.inputs()
    space.scripts["hub"] = ended("ENGINE_SUCCEEDED", INSPECTED["Model"])
    space.create("Model", "hub", {"source": {"huggingFace": {"repo": "org/base"}}})
    space.ready("Model", "hub")
    return {"modelRef": {"name": "hub"}}


def looked_at(space: CmlSpace, kind: str, name: str) -> dict[str, Any]:
    """The object once the operator has looked at it after now."""
    body = space.patch(kind, name, {"spec": {"activeDeadlineSeconds": 7200}})
    generation = body["metadata"]["generation"]
    return space.until(
        kind, name, lambda o: (o.get("status") or {}).get("observedGeneration", 0) >= generation
    )


@pytest.mark.parametrize("where", ["kubernetes", "another project", "another workspace"])
def test_a_run_in_cml_stays_the_jobs_own_when_the_target_is_another_one(
    cml: CmlSpace, where: str
) -> None:
    model = hub_model(cml)
    for at, name in enumerate(("ends", "paused", "dropped")):
        cml.job(name, hyperparameters={"maxSteps": at + 1}, **model)
        cml.phase(name, "Running")
    if where == "kubernetes":
        spec = cml.target()
    elif where == "another project":
        spec = cml.cml_target(project=cml.simulator.add_project("elsewhere").id)
    else:
        spec = cml.cml_target(url=cml.simulator.url + "/")
    replace_target(cml, TARGET, spec)
    for name in ("ends", "paused", "dropped"):
        body = looked_at(cml, "FineTuneJob", name)
        assert attempts(body) == [("Running", None)]
        assert phase_of(body) == "Running"
        (run,) = cml.cml_runs(name)
        assert run.active
        assert cml.runs(name) == []

    cml.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    cml.phase("paused", "Suspended")
    assert [run.active for run in cml.cml_runs("paused")] == [False]
    cml.delete("FineTuneJob", "dropped")
    eventually(lambda: cml.find("FineTuneJob", "dropped") is None)
    assert [job.deleted is not None for job in cml.cml_jobs("dropped")] == [True]
    (run,) = cml.cml_runs("ends")
    cml.simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    cml.phase("ends", "Succeeded")

    # A new attempt goes where the target leads now, and nothing is left where it was.
    cml.patch("FineTuneJob", "paused", {"spec": {"suspend": False}})
    (before,) = cml.cml_jobs("paused")
    if where == "kubernetes":
        cml.end("paused", attempt=2)
        body = cml.phase("paused", "Succeeded")
        assert len(cml.runs("paused")) == 1
        assert body["status"]["external"]["type"] == "kubernetes"
        assert "cml" not in body["status"]["external"]
    else:
        body = cml.phase("paused", "Running")
        eventually(lambda: len(cml.cml_jobs("paused")) == 2)
        assert cml.cml_jobs("paused")[1].project_id == spec["cml"]["project"]
    assert body["status"]["attempts"][0]["result"] == "Stopped"
    eventually(lambda: before.deleted is not None)


def test_a_run_in_the_cluster_stays_the_jobs_own_when_the_target_is_in_cml(cml: CmlSpace) -> None:
    there = hub_model(cml) | {"computeTargetRef": {"name": "moving"}}
    cml.create("ComputeTarget", "moving", cml.target())
    for at, name in enumerate(("ends", "paused")):
        cml.job(name, hyperparameters={"maxSteps": at + 1}, **there)
        cml.phase(name, "Running")
    replace_target(cml, "moving", cml.cml_target())
    for name in ("ends", "paused"):
        body = looked_at(cml, "FineTuneJob", name)
        assert (phase_of(body), attempts(body)) == ("Running", [("Running", None)])
    cml.end("ends")
    cml.phase("ends", "Succeeded")
    cml.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    cml.phase("paused", "Suspended")
    assert cml.cml_jobs("ends") == cml.cml_jobs("paused") == []
    cml.patch("FineTuneJob", "paused", {"spec": {"suspend": False}})
    eventually(lambda: cml.cml_runs("paused"))
    assert cml.runs("paused") == []


def test_a_target_keeps_its_type(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("ComputeTarget", "typed", cml_jobs.cml_target())
    path = cml_jobs.path("ComputeTarget", "typed")
    for there, change in (
        ("kubernetes", {"kubernetes": cml_jobs.target()["kubernetes"], "cml": None}),
        ("cml", {"cml": None, "kubernetes": {"image": "registry.example/runner:1"}}),
    ):
        status, answer = cml_jobs.try_patch("ComputeTarget", "typed", {"spec": change})
        assert (there, status) == (there, 422)
        assert "make another target" in answer["message"]
    replaced = cml_jobs.get("ComputeTarget", "typed") | {"spec": cml_jobs.target()}
    status, answer = cml_jobs.try_request("PUT", path, replaced)
    assert (status, "between kubernetes and cml" in answer["message"]) == (422, True)
    status, answer = cml_jobs.try_patch(
        "ComputeTarget",
        "scripted",
        {"spec": {"kubernetes": None, "cml": cml_jobs.cml_target()["cml"]}},
    )
    assert (status, "between kubernetes and cml" in answer["message"]) == (422, True)
    # What is in it may change.
    cml_jobs.patch("ComputeTarget", "typed", {"spec": {"cml": {"timeoutSeconds": 3600}}})


def test_the_record_names_secrets_and_never_tells_them(cml_jobs: CmlSpace) -> None:
    cml_jobs.job("told")
    cml_jobs.phase("told", "Running")
    simulator = cml_jobs.simulator
    body = cml_jobs.until("FineTuneJob", "told", lambda o: "jobId" in o["status"]["external"])
    external = body["status"]["external"]
    assert external["target"] == f"ComputeTarget/{TARGET}"
    assert external["type"] == "cml"
    assert external["cml"]["apiKeySecretRef"] == {"name": SECRET, "key": "apiKey"}
    assert external["cml"]["url"] == simulator.url
    assert external["projectId"] == simulator.project.id
    assert external["tracking"]["experiment"] == f"kubetune-{cml_jobs.namespace}"
    assert simulator.api_key not in str(body)


def test_runs_of_an_evaluation_stay_its_own(cml: CmlSpace) -> None:
    cml.inputs()
    for name in ("measured", "dropped"):
        cml.scripts[name] = staying(RUNNING)
        spec = {
            "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
            "datasetRef": {"name": "rows"},
            "promptRef": {"name": "ask"},
            "metrics": ["exactMatch"],
            "seed": len(name),
        }
        cml.create("Evaluation", name, spec)
        cml.until("Evaluation", name, lambda o: phase_of(o) == "Running")
    replace_target(cml, TARGET, cml.target())
    for name in ("measured", "dropped"):
        body = looked_at(cml, "Evaluation", name)
        assert phase_of(body) == "Running"
        assert body["status"]["external"]["type"] == "cml"
    cml.delete("Evaluation", "dropped")
    eventually(lambda: cml.find("Evaluation", "dropped") is None)
    (job,) = cml.cml_jobs("dropped")
    assert job.deleted is not None
    cml.patch("Evaluation", "measured", {"spec": {"suspend": True}})
    cml.until("Evaluation", "measured", lambda o: phase_of(o) == "Suspended")
    assert [run.active for run in cml.cml_runs("measured")] == [False]


def test_an_inspection_leaves_nothing_where_it_began(cml: CmlSpace) -> None:
    cml.scripts |= {name: staying(RUNNING) for name in ("moved", "dropped")}
    for name in ("moved", "dropped"):
        cml.create("Dataset", name, {"source": {"inline": {"rows": [{"text": name}]}}})
        eventually(lambda name=name: cml.cml_runs(name))
        body = cml.until("Dataset", name, lambda o: "external" in o["status"]["inspection"])
        assert body["status"]["inspection"]["external"]["type"] == "cml"
        assert FINALIZER in body["metadata"]["finalizers"]
    cml.patch("ComputeTarget", TARGET, {"metadata": {"annotations": {ABANDON_RUNS: "true"}}})
    cml.delete("ComputeTarget", TARGET)
    eventually(lambda: cml.find("ComputeTarget", TARGET) is None)
    cml.delete("Dataset", "dropped")
    eventually(lambda: cml.find("Dataset", "dropped") is None)
    assert [job.deleted is not None for job in cml.cml_jobs("dropped")] == [True]
    # Made anew as another type, it reads in the cluster.
    cml.create("ComputeTarget", TARGET, cml.target(), **DEFAULT_TARGET)
    cml.ready("Dataset", "moved")
    assert [job.deleted is not None for job in cml.cml_jobs("moved")] == [True]
    body = cml.until("Dataset", "moved", lambda o: not o["metadata"].get("finalizers"))
    assert "external" not in body["status"]["inspection"]


def test_an_inspection_is_gone_before_its_object_when_nobody_saw_the_deletion(
    cml: CmlSpace, cml_operator: Operator
) -> None:
    cml.scripts["unseen"] = staying(RUNNING)
    cml.create("Dataset", "unseen", {"source": {"inline": {"rows": [{"text": "unseen"}]}}})
    eventually(lambda: cml.cml_runs("unseen"))
    with cml_operator.crashed():
        cml.request("DELETE", f"/api/v1/namespaces/{cml.namespace}")
        for kind, name in (("Secret", SECRET), ("Dataset", "unseen")):
            cml.until(kind, name, lambda o: "deletionTimestamp" in o["metadata"])
    path = f"/api/v1/namespaces/{cml.namespace}"
    eventually(lambda: cml.try_request("GET", path)[0] == 404, 120)
    assert [job.deleted is not None for job in cml.cml_jobs("unseen")] == [True]
