"""Datasets, Models and PromptTemplates on a real cluster, with real inspections."""

import json
from pathlib import Path
from typing import Any

import pytest
from kubetune import names
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import ROWS, Namespace, annotations, condition, volume
from tests.cluster.support import eventually
from tests.hub.server import running
from tests.runners.inspection_fixtures import adapter_files, jsonl, model_files, write

pytestmark = pytest.mark.cluster

# Sooner than anything that is looked at again by the clock alone.
AT_ONCE = 15
TEMPLATE = {"prompt": "{prompt}", "completion": "{completion}"}
# name of the file -> content, reason, words of the message
BROKEN: dict[str, tuple[bytes, str, str]] = {
    "empty.jsonl": (b"", "NoRows", ""),
    "ragged.csv": (b"prompt,completion\na,b\nc,d,e\nf\n", "InvalidRows", ""),
    "broken.jsonl": (
        b'{"prompt": "a", "completion": "b"}\n' * 1203 + b'{"prompt": \n',
        "InvalidRows",
        "1204",
    ),
    "long-line.jsonl": (
        b'{"prompt": "a", "completion": "' + b"x" * 5_000_000 + b'"}\n',
        "InvalidRows",
        "",
    ),
    "latin.jsonl": (
        '{"prompt": "é", "completion": "b"}\n'.encode("latin-1"),
        "InvalidRows",
        "UTF-8",
    ),
}


def files(name: str) -> dict[str, Any]:
    """A Dataset of one file on the volume."""
    suffix = name.rpartition(".")[2]
    return {"source": {"volume": {"claimName": "files", "glob": name, "format": suffix}}}


def test_each_missing_reference_is_waited_for_in_turn(space: Namespace):
    profile = {"kind": "TuningProfile", "name": "gentle"}
    target = {"kind": "ComputeTarget", "name": "here"}
    space.job("patient", profileRef=profile, computeTargetRef=target)
    write(space.files / "base", model_files())

    def waits(reason: str, *words: str) -> None:
        message = space.waits("FineTuneJob", "patient", reason, AT_ONCE)
        assert all(word in message for word in words), message

    waits("ModelMissing", "base")
    space.create("Model", "base", {"source": volume("base")})
    waits("DatasetMissing", "rows")
    source = {"configMap": {"name": "rows", "key": "rows.jsonl"}}
    space.create("Dataset", "rows", {"source": source})
    waits("PromptTemplateMissing", "ask")
    space.create("PromptTemplate", "ask", TEMPLATE)
    waits("TuningProfileMissing", "gentle")
    space.create("TuningProfile", "gentle", {"backoffLimit": 0})
    waits("TargetMissing", "here")
    space.create("ComputeTarget", "here", space.target())
    space.ready("Model", "base")
    assert "ConfigMap rows" in space.waits("Dataset", "rows", "ConfigMapMissing", AT_ONCE)
    waits("DatasetNotReady", "rows", "ConfigMapMissing")
    space.create("ConfigMap", "rows", data={"rows.jsonl": jsonl(ROWS)})
    space.ready("Dataset", "rows")
    body = space.phase("patient", "Running")
    assert body["status"]["effective"]["backoffLimit"] == 0
    assert condition(body, "InputsReady")[0] == "True"


def test_references_stay_within_the_namespace(
    cluster: LocalCluster, jobs: Namespace, space: Namespace
):
    space.job("alone")
    assert "base" in space.waits("FineTuneJob", "alone", "ModelMissing", AT_ONCE)
    # The other namespace has all of it, Ready, and a change of it wakes nobody here.
    jobs.patch("Model", "base", {"metadata": {"labels": {"touched": "yes"}}})
    jobs.job("beside")
    jobs.phase("beside", "Running")
    jobs.end("beside")
    assert condition(space.get("FineTuneJob", "alone"), "Ready")[1] == "ModelMissing"
    assert space.runs("alone") == []


def test_what_an_inspection_finds_wrong_is_said(space: Namespace):
    for name, (content, _, _) in BROKEN.items():
        (space.files / name).write_bytes(content)
        space.create("Dataset", name, files(name))
    space.create("Dataset", "absent.jsonl", files("absent.jsonl"))
    write(space.files / "base", model_files())
    write(space.files / "wider", adapter_files(hidden=32))
    write(space.files / "t5", {"config.json": b'{"model_type": "t5"}'})
    space.create("Model", "base", {"source": volume("base")})
    space.create("Model", "reader", {"source": volume("t5")})
    space.create("Model", "nowhere", {"source": volume("no/such/folder")})
    space.create("Model", "lonely", {"source": volume("wider")})
    space.create("Model", "misfit", {"source": volume("wider"), "baseModelRef": {"name": "base"}})
    for name, (_, reason, words) in BROKEN.items():
        message = space.stalls("Dataset", name, reason)
        assert words in message + json.dumps(space.get("Dataset", name)["status"].get("problems"))
    assert "absent.jsonl" in space.stalls("Dataset", "absent.jsonl", "NoFiles")
    assert "no/such/folder" in space.stalls("Model", "nowhere", "ModelNotFound")
    assert "of type t5" in space.stalls("Model", "reader", "ModelNotCausal")
    assert "baseModelRef" in space.stalls("Model", "lonely", "BaseModelMissing")
    assert "base" in space.stalls("Model", "misfit", "BaseModelMismatch")
    problems = space.get("Dataset", "broken.jsonl")["status"]["problems"]
    assert [problem["row"] for problem in problems] == [1204]
    # What failed can be looked at: its pod stays for a while, and the end of its log in the status.
    absent = space.get("Dataset", "absent.jsonl")["status"]["inspection"]
    assert "NoFiles" in absent["log"]
    labels = f"{names.OWNER_KIND}=Dataset,{names.OWNER_NAME}=absent.jsonl"
    shown = space.cluster.kubectl("logs", "-n", space.namespace, "-l", labels, "--tail=-1")
    assert "failed: NoFiles" in shown
    kept = {annotations(job)[names.OWNER_NAME] for job in space.objects("Job")}
    assert kept >= {*BROKEN, "absent.jsonl", "nowhere"}
    (space.files / "absent.jsonl").write_text(jsonl(ROWS))
    space.patch("Dataset", "absent.jsonl", {"spec": {"splits": {"seed": 3}}})
    assert "log" not in space.ready("Dataset", "absent.jsonl")["inspection"]
    eventually(
        lambda: (
            "absent.jsonl"
            not in {annotations(job)[names.OWNER_NAME] for job in space.objects("Job")}
        )
    )


def test_slots_that_no_column_has(jobs: Namespace):
    wrong = {"prompt": "{question}", "completion": "{completion}"}
    jobs.create("PromptTemplate", "checked", wrong | {"datasetRef": {"name": "rows"}})
    jobs.create("PromptTemplate", "unchecked", wrong)
    message = jobs.stalls("PromptTemplate", "checked", "SlotUnknown")
    assert "{question}" in message
    assert "completion, prompt" in message or "prompt, completion" in message
    jobs.ready("PromptTemplate", "unchecked")
    jobs.job("slots", promptRef={"name": "unchecked"})
    assert "{question}" in jobs.stalls("FineTuneJob", "slots", "SlotUnknown")
    jobs.patch("PromptTemplate", "checked", {"spec": TEMPLATE})
    jobs.ready("PromptTemplate", "checked")


def test_too_many_inline_rows(jobs: Namespace):
    rows = [{"prompt": "x" * 1000, "completion": "y"}] * 300
    jobs.create("Dataset", "heavy", {"source": {"inline": {"rows": rows}}})
    assert "ConfigMap" in jobs.stalls("Dataset", "heavy", "InlineRowsTooLarge")


def test_inspections_are_cleaned_up_shared_and_repeated(space: Namespace):
    path = space.files / "rows.jsonl"
    path.write_text(jsonl(ROWS))
    space.create("Dataset", "one", files("rows.jsonl"))
    first = space.ready("Dataset", "one")
    assert sum(first["rows"].values()) == len(ROWS)
    assert [column["name"] for column in first["columns"]] == ["prompt", "completion"]
    eventually(lambda: space.objects("Job") == [])
    # Whoever reads the file now finds something else, so the twin's rows tell who was asked.
    path.write_text(jsonl(ROWS[:5]))
    space.create("Dataset", "two", files("rows.jsonl"))
    assert space.ready("Dataset", "two")["digest"] == first["digest"]
    space.patch("Dataset", "two", {"spec": {"splits": {"seed": 7}}})
    again = space.ready("Dataset", "two")
    assert sum(again["rows"].values()) == 5
    assert space.get("Dataset", "one")["status"]["digest"] == first["digest"]
    eventually(lambda: space.objects("Job") == [])


def test_a_secret_that_appears_is_read(space: Namespace, tmp_path: Path):
    with running(tmp_path) as hub:
        hub.add("datasets", "acme/rows", {"train.jsonl": jsonl(ROWS)}, private=True, tokens=("t",))
        target = space.target()
        target["kubernetes"]["env"].append({"name": "HF_ENDPOINT", "value": hub.url})
        space.create("ComputeTarget", "hub", target)
        token = {"name": "hub-token", "key": "token"}
        space.create(
            "Dataset",
            "private",
            {
                "source": {"huggingFace": {"repo": "acme/rows", "tokenSecretRef": token}},
                "computeTargetRef": {"kind": "ComputeTarget", "name": "hub"},
            },
        )
        assert "hub-token" in space.waits("Dataset", "private", "SecretMissing")
        space.create("Secret", "hub-token", stringData={"other": "t"}, labels={USE_LABEL: "hub"})
        space.until("Dataset", "private", lambda o: "key token" in condition(o, "Ready")[2], 30)
        space.patch("Secret", "hub-token", {"stringData": {"token": "t"}})
        status = space.ready("Dataset", "private")
        assert len(status["revision"]) == 40
        assert sum(status["rows"].values()) == len(ROWS)


def test_a_sample_is_rendered_when_asked_for(jobs: Namespace):
    spec = TEMPLATE | {"prompt": "Q: {prompt}", "datasetRef": {"name": "rows"}, "sample": True}
    jobs.create("PromptTemplate", "shown", spec)
    status = jobs.ready("PromptTemplate", "shown")
    assert status["sample"]["prompt"].startswith("Q: question")
