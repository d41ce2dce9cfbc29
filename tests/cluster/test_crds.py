"""The rendered CRDs on a real API server: what is accepted, refused, explained and kept."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from api_client import ApiClient, collection, create, manifest, spec_schema
from kubetune.api.kinds.table import BY_KIND, KINDS
from kubetune.api.schema.structural import structural_schema
from kubetune.api.training.trl_arguments import TrainerArguments
from kubetune_devcluster.cluster import LocalCluster
from spec_cases import ACCEPTED, JOB, REFUSED, Spec, argument, job, source

pytestmark = pytest.mark.cluster


def kubectl(
    cluster: LocalCluster, *arguments: str, text: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [str(cluster.kubectl_path()), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_every_kind_is_established_and_structural(cluster: LocalCluster) -> None:
    answer = json.loads(cluster.kubectl("get", "crd", "-o", "json"))
    found = {item["spec"]["names"]["kind"]: item for item in answer["items"]}
    assert found.keys() >= BY_KIND.keys()
    for kind in KINDS:
        conditions = {c["type"]: c["status"] for c in found[kind.kind]["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_short_names_and_category(cluster: LocalCluster) -> None:
    resources = cluster.kubectl("api-resources", "--categories=kubetune", "--no-headers")
    found = {line.split()[0]: line.split()[1] for line in resources.splitlines()}
    assert found == {kind.plural: ",".join(kind.short_names) for kind in KINDS}


def test_explain_gives_a_sentence_with_the_default(cluster: LocalCluster) -> None:
    explained = cluster.kubectl("explain", "ftj.spec.method.lora.rank")
    assert "FIELD: rank <integer>" in explained
    assert "Rank of the update matrices. Default 16." in explained


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({**JOB, "method": {"lora": {"rnak": 8}}}, "spec.method.lora.rnak"),
        ({**JOB, "hyperParameters": {}}, "spec.hyperParameters"),
        ({**JOB, "trainer": {"trl": {"arguments": {"adam_beta3": 1}}}}, "adam_beta3"),
    ],
)
def test_kubectl_refuses_typos(
    cluster: LocalCluster, flags: tuple[str, ...], spec: Spec, field: str
) -> None:
    text = json.dumps(manifest(BY_KIND["FineTuneJob"], spec, "typo"))
    result = kubectl(cluster, "apply", *flags, "-f", "-", text=text)
    assert result.returncode == 1
    assert field in result.stderr
    # server-side apply says "field not declared in schema", client-side "unknown field"
    assert "unknown field" in result.stderr or "not declared in schema" in result.stderr


def test_exponent_numbers_work_through_kubectl(cluster: LocalCluster) -> None:
    text = (
        "apiVersion: kubetune.io/v1alpha1\nkind: FineTuneJob\nmetadata: {name: exponent}\n"
        "spec:\n  modelRef: {name: m}\n  datasetRef: {name: d}\n"
        "  hyperparameters: {learningRate: 1e-4}\n"
    )
    result = kubectl(cluster, "apply", "--dry-run=server", "-o", "json", "-f", "-", text=text)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["spec"]["hyperparameters"]["learningRate"] == 1e-4


def test_nan_is_refused_by_kubectl(cluster: LocalCluster) -> None:
    text = (
        "apiVersion: kubetune.io/v1alpha1\nkind: FineTuneJob\nmetadata: {name: nan}\n"
        "spec:\n  modelRef: {name: m}\n  datasetRef: {name: d}\n"
        "  hyperparameters: {learningRate: .nan}\n"
    )
    result = kubectl(cluster, "apply", "--dry-run=server", "-f", "-", text=text)
    assert result.returncode == 1
    assert "NaN" in result.stderr or "learningRate" in result.stderr


@pytest.mark.parametrize(("kind", "spec", "message"), REFUSED)
def test_refused_with_the_way_out(api: ApiClient, kind: str, spec: Spec, message: str) -> None:
    status, answer = create(api, kind, spec)
    assert status == 422, answer
    assert message in answer


@pytest.mark.parametrize("name", sorted(TrainerArguments.owned))
def test_owned_trl_arguments_name_the_field_to_use(api: ApiClient, name: str) -> None:
    given = {"trl": {"arguments": {name: argument(name)}}}
    status, answer = create(api, "FineTuneJob", job(trainer=given))
    assert status == 422, answer
    assert f"spec.trainer.trl.arguments: Invalid value: {name}: not a free argument: " in answer
    assert TrainerArguments.owned[name] in answer


def test_all_owned_trl_arguments_are_told(api: ApiClient) -> None:
    given = {"trl": {"arguments": {"learning_rate": 1e-3, "bf16": True, "adam_beta1": 0.8}}}
    status, answer = create(api, "FineTuneJob", job(trainer=given))
    assert status == 422, answer
    for name in ("learning_rate", "bf16"):
        assert f"{name}: not a free argument: {TrainerArguments.owned[name]}" in answer


def test_what_only_the_operator_writes_is_kept_whole_and_explained(cluster: LocalCluster) -> None:
    for kind in KINDS:
        whole = structural_schema(kind.status)["properties"] if kind.status else {}
        for name, field in whole.items():
            fields = field.get("items", field).get("properties", {})
            if not fields or name == "conditions":
                continue
            explained = " ".join(cluster.kubectl("explain", f"{kind.plural}.status.{name}").split())
            assert f"Fields: {', '.join(fields)} (docs/api-reference.md)." in explained
            assert field["description"] in explained


def rules_in(schema: Any) -> Iterator[Spec]:
    if isinstance(schema, dict):
        yield from schema.get("x-kubernetes-validations", ())
        schema = list(schema.values())
    if isinstance(schema, list):
        for item in schema:
            yield from rules_in(item)


def made_up(rule: dict[str, str]) -> list[str]:
    """What stands in every message that a rule makes of what it has found."""
    return re.findall(
        r"' ?((?:is|goes with|promoteWhen) [a-zA-Z ]+ )'", rule.get("messageExpression", "")
    )


def test_every_rule_has_a_case_that_breaks_it() -> None:
    tried = {kind: [m for k, _, m in REFUSED if k == kind] for kind in BY_KIND}
    # Profiles and cluster targets have the models of jobs and targets.
    for kind, same in (
        ("TuningProfile", "FineTuneJob"),
        ("ClusterTuningProfile", "FineTuneJob"),
        ("ClusterComputeTarget", "ComputeTarget"),
    ):
        tried[kind] = tried[same]
    untried = {
        (kind.kind, rule["message"])
        for kind in KINDS
        for rule in rules_in(spec_schema(kind))
        # Those that look at changes have cases in test_immutability.
        if ("oldSelf" not in rule["rule"] or rule.get("optionalOldSelf"))
        # All of them are tried above.
        and not rule["message"].startswith("not a free argument")
        and not any(part in rule["message"] for part in tried[kind.kind])
        and not any(words in part for words in made_up(rule) for part in tried[kind.kind])
    }
    assert not untried


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_accepted(api: ApiClient, kind: str, spec: Spec) -> None:
    assert create(api, kind, spec) == (201, "")


@pytest.mark.parametrize(
    ("name", "status"), [("a" * 63, 201), ("a." * 126 + "a", 201), ("a" * 254, 422), ("A", 422)]
)
def test_names(api: ApiClient, name: str, status: int) -> None:
    assert create(api, "FineTuneJob", JOB, name)[0] == status


def test_no_default_on_what_a_profile_may_set(api: ApiClient) -> None:
    spec = job(method={"lora": {}}, hyperparameters={}, data={}, checkpoint={}, resources={})
    path = collection(BY_KIND["FineTuneJob"]) + "?dryRun=All"
    _, answer = api.request("POST", path, manifest(BY_KIND["FineTuneJob"], spec))
    defaults = {
        "objective": "sft",
        "suspend": False,
        "reuse": "IfIdentical",
        "deletionPolicy": "Delete",
    }
    assert answer["spec"] == {**spec, **defaults}


def test_300_kilobytes_of_inline_rows_do_not_pass_kubectl_apply(cluster: LocalCluster) -> None:
    spec = source(inline={"rows": [{"text": "x" * 1000} for _ in range(300)]})
    text = json.dumps(manifest(BY_KIND["Dataset"], spec, "large"))
    result = kubectl(cluster, "apply", "-f", "-", text=text)
    assert result.returncode == 1
    assert "262144 bytes" in result.stderr
