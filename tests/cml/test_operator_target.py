"""ComputeTargets of type cml: what Ready proves, and what happens when it ends, for real."""

import json
import shutil
from typing import Any

import pytest
from kubetune.names import ABANDON_RUNS
from kubetune_devcluster.cml.server.catalog import quota_row

from tests.cluster.namespace import condition, volume
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.lives import attempts, succeeded
from tests.cml.space import FOR_TARGETS, TARGET, CmlSpace

pytestmark = pytest.mark.cluster


def away(space: CmlSpace, kind: str, name: str, reason: str) -> str:
    """The message of TargetAvailable once it is False for this reason."""
    wanted = ("False", reason)
    body = space.until(kind, name, lambda o: condition(o, "TargetAvailable")[:2] == wanted)
    return condition(body, "TargetAvailable")[2]


def target(space: CmlSpace, name: str, **cml: Any) -> None:
    """A ComputeTarget beside the default one."""
    space.create("ComputeTarget", name, space.cml_target(**cml))


# --- what Ready proves


def test_ready_tells_what_runs_will_find(cml_jobs: CmlSpace) -> None:
    simulator = cml_jobs.simulator
    project = simulator.add_project("Sprachmodelle für Müller & Söhne")
    simulator.set_environment({"HF_TOKEN": "hf_told_to_nobody", "PROXY": "http://proxy"}, project)
    target(cml_jobs, "named", project=project.name, requiredVariables=["HF_TOKEN", "WANDB_KEY"])
    status = cml_jobs.ready("ComputeTarget", "named")
    accelerator = {"key": "accelerator", "value": "nvidia-a100", "maxPerWorkload": 4, "free": 8}
    assert status["workspace"] == {
        "projectId": project.id,
        "runtime": simulator.runtime_identifier(),
        "accelerators": [accelerator],
        "quota": {"cpu": "0/64", "memory": "0/512", "gpu": "0/8"},
        "variables": ["HF_TOKEN", "PROXY"],
    }
    body = cml_jobs.get("ComputeTarget", "named")
    assert "hf_told_to_nobody" not in json.dumps(body)
    assert simulator.api_key not in json.dumps(body)
    available = condition(body, "TargetAvailable")
    assert available[0] == "True"
    assert "does not set WANDB_KEY" in available[2]


def test_what_is_missing_is_named(cml_jobs: CmlSpace) -> None:
    key = {"apiKey": "no-key-of-this-workspace"}
    cml_jobs.create("Secret", "wrong", stringData=key, labels=FOR_TARGETS)
    target(cml_jobs, "wrong-key", apiKeySecretRef={"name": "wrong"})
    target(cml_jobs, "no-secret", apiKeySecretRef={"name": "nobody-made-it"})
    target(cml_jobs, "no-project", project="nobody-made-it")
    target(cml_jobs, "no-runtime", runtime={"kernel": "Python 2.7"})
    labelled = {"gpu": 1, "gpuLabel": {"accelerator": "abacus"}}
    target(cml_jobs, "no-label", resources=labelled)
    target(cml_jobs, "no-addon", runtimeAddons=["hadoop-cli-7.2.18-hf4", "spark-9"])
    message = away(cml_jobs, "ComputeTarget", "wrong-key", "CredentialsInvalid")
    assert "no-key-of-this-workspace" not in message
    assert cml_jobs.simulator.url in message
    assert "nobody-made-it" in cml_jobs.waits("ComputeTarget", "no-secret", "SecretMissing")
    assert "nobody-made-it" in away(cml_jobs, "ComputeTarget", "no-project", "ProjectMissing")
    assert "Python 3.11" in away(cml_jobs, "ComputeTarget", "no-runtime", "RuntimeMissing")
    message = away(cml_jobs, "ComputeTarget", "no-label", "TargetRefused")
    assert "spec.cml.resources.gpuLabel accelerator: abacus" in message
    assert "accelerator: nvidia-a100" in message
    message = away(cml_jobs, "ComputeTarget", "no-addon", "RuntimeMissing")
    assert "runtimeAddons spark-9 is no add-on of the workspace" in message
    assert "it has hadoop-cli-7.2.18-hf4" in message


def test_the_quota_is_that_of_the_keys_owner(cml: CmlSpace) -> None:
    """An administrator's key sees everybody's; who its owner is shows when it made a job."""
    none: dict[str, str] = {"cpu": "0", "memory": "0", "nvidia_gpu": "0"}
    rows = [quota_row(name, none, none | {"cpu": "7"}) for name in ("alice", "bob", "carol")]
    cml.simulator.catalog.other_quotas += rows
    target(cml, "before")
    assert "quota" not in cml.ready("ComputeTarget", "before")["workspace"]
    cml.create("Model", "base", {"source": {"project": {"path": "base"}}})
    cml.ready("Model", "base")
    cml.patch("ComputeTarget", "workspace", {"spec": {"cml": {"timeoutSeconds": 3600}}})
    body = cml.until(
        "ComputeTarget", "workspace", lambda body: "quota" in body["status"]["workspace"]
    )
    assert body["status"]["workspace"]["quota"]["cpu"].endswith("/64")


def test_a_project_is_made_from_git_once(cml_jobs: CmlSpace) -> None:
    source = {"url": "https://git.example.com/team/runners.git", "ref": "main"}
    before = cml_jobs.simulator.count("create_project")
    target(cml_jobs, "made", project="made-from-git", createProject=source)
    cml_jobs.ready("ComputeTarget", "made")
    projects = cml_jobs.simulator.workspace.projects.values()
    assert [project.name for project in projects].count("made-from-git") == 1
    assert cml_jobs.simulator.count("create_project") == before + 1


def test_an_address_or_project_never_changes(cml_jobs: CmlSpace) -> None:
    target(cml_jobs, "fixed")
    for field, value in (("url", "https://elsewhere.example.com"), ("project", "another")):
        status, answer = cml_jobs.try_patch(
            "ComputeTarget", "fixed", {"spec": {"cml": {field: value}}}
        )
        assert status == 422
        assert "jobs are found by it" in answer["message"]


# --- what jobs get and don't get


def test_a_gpu_label_becomes_its_id(cml_jobs: CmlSpace) -> None:
    label = {"accelerator": "nvidia-a100"}
    cml_jobs.job("labelled", resources={"gpu": 2, "gpuLabel": label})
    cml_jobs.phase("labelled", "Running")
    (job,) = cml_jobs.cml_jobs("labelled")
    assert job.settings["nvidia_gpu"] == 2
    assert job.settings["accelerator_label_id"] == "7"
    cml_jobs.job("unknown-label", resources={"gpu": 1, "gpuLabel": {"accelerator": "abacus"}})
    cml_jobs.job("too-many", resources={"gpu": 5, "gpuLabel": label})
    message = cml_jobs.waits("FineTuneJob", "unknown-label", "TargetRefused")
    assert "it has accelerator: nvidia-a100" in message
    message = cml_jobs.waits("FineTuneJob", "too-many", "TargetRefused")
    assert "resources.gpu 5 is above the 4" in message
    assert cml_jobs.cml_jobs("unknown-label") == cml_jobs.cml_jobs("too-many") == []


def test_sources_that_a_target_cannot_reach_are_refused(cml_jobs: CmlSpace) -> None:
    in_cluster = {"computeTargetRef": {"name": "scripted"}}
    cml_jobs.create("Model", "on-volume", {"source": volume("base")})
    cml_jobs.create("Model", "in-project", {"source": {"project": {"path": "base"}}, **in_cluster})
    message = cml_jobs.stalls("Model", "on-volume", "SourceUnreachable")
    assert "source.project" in message
    message = cml_jobs.stalls("Model", "in-project", "SourceUnreachable")
    assert "source.volume" in message
    # A job elsewhere than its model.
    cml_jobs.job("crossed", **in_cluster)
    eventually(lambda: condition(cml_jobs.get("FineTuneJob", "crossed"), "InputsReady")[2])
    assert "source.project" in condition(cml_jobs.get("FineTuneJob", "crossed"), "InputsReady")[2]
    assert cml_jobs.runs("crossed") == []


def test_a_runner_that_somebody_removed_is_uploaded_again(cml_jobs: CmlSpace) -> None:
    cml_jobs.job("before")
    cml_jobs.phase("before", "Running")
    files = cml_jobs.simulator.files()
    (archive,) = (files / ".kubetune").glob("*.zip")
    shutil.rmtree(files / ".kubetune")
    cml_jobs.job("after", hyperparameters={"maxSteps": 2})
    cml_jobs.phase("after", "Running")
    assert archive.is_file()
    (job,) = cml_jobs.cml_jobs("after")
    assert (files / job.settings["script"]).is_file()


# --- bad days of a target


def test_a_key_that_is_revoked_stops_nothing_and_storms_nothing(cml: CmlSpace) -> None:
    cml.inputs()
    cml.job("tune")
    cml.phase("tune", "Running")
    simulator = cml.simulator
    (run,) = cml.cml_runs("tune")
    old = simulator.api_key
    simulator.revoke_key()
    assert old not in away(cml, "FineTuneJob", "tune", "CredentialsInvalid")
    away(cml, "ComputeTarget", TARGET, "CredentialsInvalid")

    # However often the operator looks at the job, the workspace isn't asked for it.
    for at in range(30):
        note = {"metadata": {"annotations": {"example.com/note": str(at)}}}
        cml.patch("FineTuneJob", "tune", note)
        cml.create("PromptTemplate", f"note-{at}", {"prompt": "{q}", "completion": "{q}"})
        cml.ready("PromptTemplate", f"note-{at}")
    refused = [request for request in simulator.requests if request.status == 401]
    assert len(refused) < 15

    cml.key(simulator.add_key())
    body = cml.until(
        "FineTuneJob", "tune", lambda o: condition(o, "TargetAvailable") == ("", "", "")
    )
    assert attempts(body) == [("Running", None)]
    assert [active.id for active in cml.cml_runs("tune") if active.active] == [run.id]
    cml.ready("ComputeTarget", TARGET)
    simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    cml.phase("tune", "Succeeded")
    assert len(cml.cml_runs("tune")) == 1


def test_a_target_that_changes_is_followed_by_its_new_spec_alone(cml: CmlSpace) -> None:
    cml.inputs()
    cml.job("tune")
    cml.phase("tune", "Running")
    simulator = cml.simulator
    key = {"apiKey": simulator.add_key()}
    cml.create("Secret", "rotated", stringData=key, labels=FOR_TARGETS)
    change = {"spec": {"cml": {"apiKeySecretRef": {"name": "rotated"}}}}
    cml.patch("ComputeTarget", TARGET, change)
    # The spec decides: the new one is in use when the target is Ready with it, and the job asked.
    cml.ready("ComputeTarget", TARGET)
    cml.patch("FineTuneJob", "tune", {"metadata": {"annotations": {"example.com/look": "1"}}})
    (run,) = cml.cml_runs("tune")
    polled(cml, times=2)
    simulator.revoke_key()
    before = len(simulator.requests)
    polled(cml, times=3)
    assert [one.path for one in simulator.requests[before:] if one.status == 401] == []
    simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    cml.phase("tune", "Succeeded")


def polled(space: CmlSpace, times: int) -> None:
    """Return when runs were listed so many times more."""
    wanted = space.simulator.count("list_job_runs") + times
    eventually(lambda: space.simulator.count("list_job_runs") >= wanted)


def test_a_project_that_disappears_counts_nothing_as_lost(cml: CmlSpace) -> None:
    simulator = cml.simulator
    target(cml, "by-name", project=simulator.project.name)
    cml.inputs()
    cml.job("tune", backoffLimit=1, computeTargetRef={"name": "by-name"})
    cml.phase("tune", "Running")
    simulator.delete_project(simulator.project.id)
    assert simulator.project.name in away(cml, "FineTuneJob", "tune", "ProjectMissing")
    body = cml.get("FineTuneJob", "tune")
    assert attempts(body) == [("Running", None)]
    assert body["status"]["counts"]["failed"] == 0
    # Another project of the same name has neither the job nor the runner.
    cml.scripts["tune"] = succeeded()
    again = simulator.add_project(simulator.project.name)
    body = cml.phase("tune", "Succeeded")
    assert attempts(body) == [("Failed", "RunLost"), ("Succeeded", "Trained")]
    assert [job.project_id for job in cml.cml_jobs("tune")] == [simulator.project.id, again.id]


def test_jobs_end_though_their_target_is_gone(cml: CmlSpace) -> None:
    cml.inputs()
    for at, name in enumerate(("tune", "free", "orphan")):
        cml.job(name, hyperparameters={"maxSteps": at + 1})
        cml.phase(name, "Running")
    annotation = {"metadata": {"annotations": {ABANDON_RUNS: "true"}}}
    cml.patch("ComputeTarget", TARGET, annotation)
    cml.delete("ComputeTarget", TARGET)
    eventually(lambda: cml.find("ComputeTarget", TARGET) is None)
    # What status recorded is enough as long as the Secret is there.
    cml.delete("FineTuneJob", "free")
    eventually(lambda: cml.find("FineTuneJob", "free") is None)
    assert [run.active for run in cml.cml_runs("free")] == [False]
    cml.patch("FineTuneJob", "orphan", {"spec": {"deletionPolicy": "Orphan"}})
    cml.delete("FineTuneJob", "orphan")
    eventually(lambda: cml.find("FineTuneJob", "orphan") is None)
    assert [run.active for run in cml.cml_runs("orphan")] == [True]
    (run,) = cml.cml_runs("tune")
    cml.simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    body = cml.phase("tune", "Succeeded")
    assert attempts(body)[0][0] == "Succeeded"
    assert len(cml.cml_runs("tune")) == 1


def test_without_the_package_the_target_says_how_to_install_it(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    cml_jobs.job("stranded")
    cml_jobs.phase("stranded", "Running")
    with cml_operator.without("PYTHONPATH"):
        message = away(cml_jobs, "ComputeTarget", TARGET, "PackageMissing")
        assert f"pip install {cml_jobs.simulator.url}/api/v2/python.tar.gz" in message
        away(cml_jobs, "FineTuneJob", "stranded", "PackageMissing")
    cml_jobs.ready("ComputeTarget", TARGET)
    (run,) = cml_jobs.cml_runs("stranded")
    cml_jobs.simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    cml_jobs.phase("stranded", "Succeeded")
