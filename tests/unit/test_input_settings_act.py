"""Every setting of inputs and targets changes what is run or asked, or is refused, never ignored.

The tables name each field once: with another value that changes a request, or with the test that
proves it where a request alone doesn't show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import (
    INLINE,
    MODEL_FOUND,
    NOW,
    dataset,
    facts,
    job,
    model,
    observed_job,
    prompt,
    ready,
    target,
)
from kubetune.api import JsonObject
from kubetune.api.crd import structural_schema
from kubetune.api.kinds.table import BY_KIND
from kubetune.api.training.settings import merge
from kubetune.clients.cml_models import Runtime
from kubetune.decide.decision import Decision, StartRun
from kubetune.decide.fine_tune_job import states as fine_tune_job
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.fine_tune_job.progress import run_link
from kubetune.decide.inspected import dataset as datasets
from kubetune.decide.inspected import model as models
from kubetune.decide.resources import Target
from kubetune.targets.cml import manifests as cml_manifests
from kubetune.targets.cml.archive import Runner
from kubetune.targets.cml.offers import Offer, choose_runtime
from kubetune.targets.kubernetes import manifests
from pod_template_settings import FULL, OTHERS
from pydantic import ValidationError

RUNNER = Runner("run.py", b"script", "kubetune.zip", b"archive")

Proof = tuple[Any, JsonObject] | str
"""Another value and what the spec says beside it; or a test."""
ROOT = Path(__file__).parents[2]


def leaves(schema: JsonObject, path: str = "") -> Iterator[str]:
    items: JsonObject = schema.get("items") or {}
    if items.get("properties"):
        yield from leaves(items, f"{path}[]")
        return
    properties: JsonObject = schema.get("properties") or {}
    if not properties:
        yield path
    for name, below in properties.items():
        yield from leaves(below, f"{path}.{name}" if path else name)


def source(kind: str, **fields: Any) -> JsonObject:
    return {"source": {kind: fields}}


HUB = source("huggingFace", repo="org/rows")
VOLUME = source("volume", claimName="v", glob="*.csv", format="csv")
PROJECT = source("project", glob="*.csv", format="csv")
HTTP = source("http", url="https://example.org/a", format="csv")
CONFIG_MAP = source("configMap", name="rows", key="rows.csv", format="csv")
TOKEN: JsonObject = {"tokenSecretRef": {"name": "s", "key": "k"}}
HUB_TOKEN = source("huggingFace", repo="org/rows", **TOKEN)
JUDGES = (
    "tests/cml/test_operator_judges.py::test_only_listed_variables_are_sent_and_only_where_they_may"
)
OWN_CODE = "tests/cluster/test_operator_own_code.py::test_a_target_that_refuses_code_starts_none"
VARIABLES = "tests/unit/test_code_variables.py::test_runs_are_told_which_variables_code_gets"
LISTED = "tests/cluster/test_operator_consent.py::test_what_the_targets_admin_lists_needs_no_label"
SHARED_NAMES = "tests/cluster/test_registered_names.py::test_names_that_the_targets_admin_shares"
TARGETS = "tests/cluster/test_operator_default_targets.py::test_who_names_a_target_waits_for_it"
CHECKS = "tests/unit/test_decide_row_checks.py::test_row_checks"

DATASET: dict[str, Proof] = {
    "source.huggingFace.repo": ("org/other", HUB),
    "source.huggingFace.revision": ("v2", HUB),
    "source.huggingFace.config": ("en", HUB),
    "source.huggingFace.tokenSecretRef.name": ("other", HUB_TOKEN),
    "source.huggingFace.tokenSecretRef.key": ("other", HUB_TOKEN),
    "source.huggingFace.csv.delimiter": (";", HUB),
    "source.volume.claimName": ("other", VOLUME),
    "source.volume.glob": ("other.csv", VOLUME),
    "source.volume.format": ("json", VOLUME),
    "source.volume.csv.delimiter": (";", VOLUME),
    "source.project.glob": ("other.csv", PROJECT),
    "source.project.format": ("json", PROJECT),
    "source.project.csv.delimiter": (";", PROJECT),
    "source.http.url": ("https://example.org/b", HTTP),
    "source.http.format": ("json", HTTP),
    "source.http.csv.delimiter": (";", HTTP),
    "source.configMap.name": ("other", CONFIG_MAP),
    "source.configMap.key": ("other.csv", CONFIG_MAP),
    "source.configMap.format": ("json", CONFIG_MAP),
    "source.configMap.csv.delimiter": (";", CONFIG_MAP),
    "source.inline.rows": ([{"prompt": "x", "completion": "y"}], {}),
    "format": ("text", {}),
    "columns.prompt": ("question", {}),
    "columns.completion": ("answer", {}),
    "columns.text": ("body", {"format": "text"}),
    "columns.messages": ("chat", {"format": "messages"}),
    "columns.chosen": ("better", {"format": "preference"}),
    "columns.rejected": ("worse", {"format": "preference"}),
    "columns.label": ("good", {"format": "unpairedPreference"}),
    "columns.tools": ("functions", {"format": "messages"}),
    "splits.train": ("training", {}),
    "splits.evaluation": ("held", {}),
    "splits.evaluationFraction": (0.2, {}),
    "splits.seed": (7, {}),
    "tokenizerRef.name": ("base", {}),
    "checks.duplicates": CHECKS,
    "checks.unusable": CHECKS,
    "checks.hiddenParts": "tests/unit/test_decide_dataset.py"
    "::test_jobs_refuse_hidden_parts_by_policy_and_inspections_only_count",
    "checks.leakage": CHECKS,
    "checks.promptLeakage": CHECKS,
    "computeTargetRef.kind": TARGETS,
    "computeTargetRef.name": TARGETS,
}

OF_HUB = source("huggingFace", repo="org/base")
OF_VOLUME = source("volume", claimName="v")
OF_PROJECT = source("project", path="models/a")
REGISTERED = source("registry", name="n", version=1)
BY_ALIAS = source("registry", name="n", alias="best")
MODEL_TOKEN = source("huggingFace", repo="org/base", **TOKEN)
MODEL: dict[str, Proof] = {
    "source.huggingFace.repo": ("org/other", OF_HUB),
    "source.huggingFace.revision": ("v2", OF_HUB),
    "source.huggingFace.tokenSecretRef.name": ("other", MODEL_TOKEN),
    "source.huggingFace.tokenSecretRef.key": ("other", MODEL_TOKEN),
    "source.volume.claimName": ("other", OF_VOLUME),
    "source.volume.path": ("below", OF_VOLUME),
    "source.project.path": ("models/b", OF_PROJECT),
    "source.registry.provider": "tests/unit/test_decide_model.py::test_model",
    "source.registry.name": ("other", REGISTERED),
    "source.registry.version": (2, REGISTERED),
    "source.registry.filesDigest": (f"sha256:{'0' * 64}", REGISTERED),
    "source.registry.alias": ("other", BY_ALIAS),
    "source.fineTuneJob.name": "tests/unit/test_decide_model.py::test_model",
    "baseModelRef.name": "tests/unit/test_decide_model.py::test_model",
    "trustRemoteCode": (True, OF_HUB),
    "computeTargetRef.kind": TARGETS,
    "computeTargetRef.name": TARGETS,
}

TEXTS = {"prompt": "{prompt}", "completion": "{completion}"}
CHAT: JsonObject = {"messages": [{"role": "assistant", "content": "{completion}"}]}
SAMPLES = "tests/unit/test_decide_prompt_template.py::test_prompt_template"
PROMPT: dict[str, Proof] = {
    "prompt": ("{prompt}!", TEXTS),
    "completion": ("{completion}!", TEXTS),
    "messages[].role": (
        [{"role": "user", "content": "{prompt}"}, *CHAT["messages"]],
        {"messages": [{"role": "system", "content": "{prompt}"}, *CHAT["messages"]]},
    ),
    "messages[].content": ([{"role": "assistant", "content": "{completion}!"}], CHAT),
    "datasetRef.name": SAMPLES,
    "sample": SAMPLES,
}

IN_CLUSTER: JsonObject = {"kubernetes": {"image": "runner:1"}, "tracking": {"uri": "http://m:5"}}
IN_CML: JsonObject = {
    "cml": {
        "url": "https://ml.example.com",
        "project": "p",
        "apiKeySecretRef": {"name": "key"},
        "runtime": {"kernel": "Python 3.11"},
    },
    "tracking": {"uri": "http://m:5"},
}


def kubernetes(**fields: Any) -> JsonObject:
    return merge(IN_CLUSTER, {"kubernetes": fields})


REFUSAL = "tests/unit/test_input_settings_act.py::test_a_setting_in_vain_is_refused"
TOLERATION: JsonObject = {"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoExecute"}
MOUNT: JsonObject = {"name": "more", "claimName": "c", "mountPath": "/more", "readOnly": True}
OF_MAP: JsonObject = {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}
OF_SECRET: JsonObject = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k"}}}
WORKSPACES = "tests/cml/test_operator_target.py::test_what_is_missing_is_named"
LABELS = "tests/unit/test_gpu_labels.py::test_what_a_target_allows"
AUTHORITY = "tests/cml/test_tracker_access.py::test_certificates_are_looked_for"
TARGET: dict[str, Proof] = {
    "kubernetes.image": ("runner:2", IN_CLUSTER),
    "kubernetes.axolotlImage": (
        "tests/unit/test_axolotl_configuration.py::test_the_image_is_axolotls"
    ),
    "kubernetes.imagePullPolicy": ("Never", IN_CLUSTER),
    "kubernetes.imagePullSecrets[].name": ([{"name": "pull"}], IN_CLUSTER),
    "kubernetes.serviceAccountName": ("runner", IN_CLUSTER),
    "kubernetes.nodeSelector": ({"zone": "a"}, IN_CLUSTER),
    **{
        f"kubernetes.tolerations[].{name}": (
            [TOLERATION | {name: value}],
            kubernetes(tolerations=[TOLERATION]),
        )
        for name, value in {
            "key": "other",
            "value": "b",
            "effect": "NoSchedule",
            "tolerationSeconds": 5,
        }.items()
    },
    "kubernetes.tolerations[].operator": (
        [{"key": "gpu", "operator": "Exists"}],
        kubernetes(tolerations=[{"key": "gpu"}]),
    ),
    "kubernetes.priorityClassName": ("high", IN_CLUSTER),
    "kubernetes.runtimeClassName": ("nvidia", IN_CLUSTER),
    "kubernetes.gpuResourceName": ("amd.com/gpu", IN_CLUSTER),
    **{
        f"kubernetes.podTemplate.{name}": (value, kubernetes(podTemplate=FULL))
        for name, value in OTHERS.items()
    },
    "kubernetes.ephemeralStorage": ("20Gi", IN_CLUSTER),
    "kubernetes.resources.cpu": ("3", IN_CLUSTER),
    "kubernetes.resources.memory": ("3Gi", IN_CLUSTER),
    "kubernetes.resources.gpu": (2, IN_CLUSTER),
    "kubernetes.resources.processes": (2, IN_CLUSTER),
    "kubernetes.resources.gpuMemory": ("80Gi", IN_CLUSTER),
    "kubernetes.resources.gpuLabel": ({"gpu": "large"}, IN_CLUSTER),
    "kubernetes.gpuLabels[].key": LABELS,
    "kubernetes.gpuLabels[].values": LABELS,
    **{
        f"kubernetes.volumes[].{name}": ([MOUNT | {name: value}], kubernetes(volumes=[MOUNT]))
        for name, value in {
            "claimName": "other",
            "mountPath": "/other",
            "readOnly": False,
        }.items()
    },
    "kubernetes.volumes[].name": REFUSAL,
    "kubernetes.modelCache.claimName": ("cache", IN_CLUSTER),
    "kubernetes.env[].name": (
        [{"name": "B", "value": "1"}],
        kubernetes(env=[{"name": "A", "value": "1"}]),
    ),
    "kubernetes.env[].value": (
        [{"name": "A", "value": "2"}],
        kubernetes(env=[{"name": "A", "value": "1"}]),
    ),
    **{
        f"kubernetes.env[].valueFrom.{kind}.{name}": (
            [merge(given, {"valueFrom": {kind: {name: "other"}}})],
            kubernetes(env=[given]),
        )
        for kind, given in (("configMapKeyRef", OF_MAP), ("secretKeyRef", OF_SECRET))
        for name in ("name", "key")
    },
    "kubernetes.envFrom[].configMapRef.name": ([{"configMapRef": {"name": "n"}}], IN_CLUSTER),
    "kubernetes.envFrom[].secretRef.name": ([{"secretRef": {"name": "n"}}], IN_CLUSTER),
    "cml.url": "tests/cml/test_operator_target.py::test_an_address_or_project_never_changes",
    "cml.project": "tests/cml/test_operator_target.py::test_an_address_or_project_never_changes",
    "cml.createProject.url": (
        "tests/cml/test_operator_target.py::test_a_project_is_made_from_git_once"
    ),
    "cml.createProject.ref": (
        "tests/cml/test_operator_target.py::test_a_project_is_made_from_git_once"
    ),
    "cml.apiKeySecretRef.name": WORKSPACES,
    "cml.apiKeySecretRef.key": WORKSPACES,
    "cml.caBundle.configMapName": AUTHORITY,
    "cml.caBundle.key": AUTHORITY,
    "cml.runtime.identifier": ({"identifier": "r/gpu", "kernel": None}, IN_CML),
    "cml.runtime.kernel": ("Python 3.12", IN_CML),
    "cml.runtime.edition": ("Nvidia GPU", IN_CML),
    "cml.runtime.editor": ("JupyterLab", IN_CML),
    "cml.runtime.version": ("1", IN_CML),
    "cml.runtimeAddons": (["hadoop"], IN_CML),
    "cml.resources.cpu": ("3", IN_CML),
    "cml.resources.memory": ("3Gi", IN_CML),
    "cml.resources.gpu": (2, IN_CML),
    "cml.resources.processes": (2, IN_CML),
    "cml.resources.gpuMemory": ("80Gi", IN_CML),
    "cml.resources.gpuLabel": ({"gpu": "large"}, IN_CML),
    "cml.gpuLabels[].key": LABELS,
    "cml.gpuLabels[].values": LABELS,
    "cml.runner.script": ("own.py", IN_CML),
    "cml.env[].name": (
        [{"name": "B", "value": "1"}],
        merge(IN_CML, {"cml": {"env": [{"name": "A", "value": "1"}]}}),
    ),
    "cml.env[].value": (
        [{"name": "A", "value": "2"}],
        merge(IN_CML, {"cml": {"env": [{"name": "A", "value": "1"}]}}),
    ),
    "cml.requiredVariables": (["WANDB_KEY"], IN_CML),
    "cml.judgeKeys[].variable": JUDGES,
    "cml.judgeKeys[].baseUrls": JUDGES,
    "cml.hubTokenVariable": ("OUR_TOKEN", IN_CML),
    "cml.poll.minSeconds": (1, IN_CML),
    "cml.poll.maxSeconds": (90, IN_CML),
    "cml.schedulingTimeoutSeconds": (60, IN_CML),
    "cml.timeoutSeconds": (60, IN_CML),
    "tracking.type": ({"type": "cml", "uri": None}, IN_CML),
    "tracking.uri": ("http://other:5", IN_CLUSTER),
    "tracking.externalUri": ("http://outside", IN_CLUSTER),
    "tracking.experiment": ("ours", IN_CLUSTER),
    "tracking.credentialsSecretRef.name": ("mlflow", IN_CLUSTER),
    "tracking.caBundle.configMapName": ("ca", IN_CLUSTER),
    "ownCode": OWN_CODE,
    "ownCodeVariables": VARIABLES,
    "allowed.secrets[].name": LISTED,
    "allowed.secrets[].uses": LISTED,
    "allowed.claims[].name": LISTED,
    "allowed.claims[].uses": LISTED,
    "tracking.registry.prefix": SHARED_NAMES,
    "tracking.registry.allowedNames": SHARED_NAMES,
    "tracking.registry.trustedNamespaces": (
        "tests/cluster/test_operator_forgeries.py::test_a_namespace_that_the_targets_admin_trusts"
    ),
    "tracking.caBundle.key": (
        "other.pem",
        merge(IN_CLUSTER, {"tracking": {"caBundle": {"configMapName": "ca"}}}),
    ),
}

TABLES: dict[str, Mapping[str, Proof]] = {
    "Dataset": DATASET,
    "Model": MODEL,
    "PromptTemplate": PROMPT,
    "ComputeTarget": TARGET,
    "ClusterComputeTarget": TARGET,
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_field_is_in_the_table(kind: str) -> None:
    assert set(leaves(structural_schema(BY_KIND[kind].spec))) == set(TABLES[kind])


PROOFS = sorted(
    {proof for table in TABLES.values() for proof in table.values() if isinstance(proof, str)}
)


@pytest.mark.parametrize("proof", PROOFS)
def test_the_test_that_proves_it_is_there(proof: str) -> None:
    file, _, name = proof.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


def laid(path: str, value: Any, spec: JsonObject) -> JsonObject:
    """The spec with another value of a field; of a list all items, of some a sibling, too."""
    names = path.partition("[]")[0].split(".")
    if isinstance(value, dict) and names[-1] in value:
        names = names[:-1]
    given: Any = value
    for name in reversed(names):
        given = {name: given}
    return merge(spec, given)


def started(decision: Decision[Any]) -> JsonObject:
    """The run that is asked for, without the names that are made of it."""
    (request,) = [each.request for each in decision.actions if isinstance(each, StartRun)]
    fields = {name: repr(value) for name, value in vars(request).items() if name != "run_key"}
    return fields | {"plan": repr(request.plan | {"run": None})}


def inspected(spec: JsonObject) -> JsonObject:
    """What an inspection observes beside; files of a project are only in a workspace."""
    place = {"target": target(kubernetes=None, **IN_CML)} if "project" in spec["source"] else {}
    return {"facts": facts(**place)}


def of_dataset(spec: JsonObject) -> Any:
    given = {"source": INLINE} | spec
    tokenizer = ready(model(), **MODEL_FOUND) if "tokenizerRef" in spec else None
    observed = datasets.ObservedDataset(dataset(given), tokenizer=tokenizer, **inspected(given))
    return started(datasets.decide(observed, NOW))


def of_model(spec: JsonObject) -> Any:
    observed = models.ObservedModel(model(spec), **inspected(spec))
    return started(models.decide(observed, NOW))


def of_prompt(spec: JsonObject) -> Any:
    """What a job makes of its rows."""
    template = replace(prompt(), spec=BY_KIND["PromptTemplate"].spec.model_validate(spec))
    observed = observed_job(job({"promptRef": {"name": "plain"}}), prompt=ready(template))
    inputs = resolve(observed)
    assert isinstance(inputs, Inputs), inputs
    return inputs.plan.to_json()


RUNTIMES = [
    Runtime.model_validate(
        {
            "image_identifier": f"r/{name}",
            "kernel": "Python 3.11",
            "edition": "Standard",
            "editor": "PBJ Workbench",
            "full_version": "2",
            "status": "ENABLED",
            **fields,
        }
    )
    for name, fields in {
        "plain": {},
        "newer": {"kernel": "Python 3.12"},
        "gpu": {"edition": "Nvidia GPU"},
        "lab": {"editor": "JupyterLab"},
        "old": {"full_version": "1"},
    }.items()
]


def of_target(spec: JsonObject) -> Any:
    """All that is asked of a cluster or a workspace for a job, and where its run is shown."""
    parsed = BY_KIND["ComputeTarget"].spec.model_validate(spec)
    place = Target("ComputeTarget", "main", parsed, True, "")  # type: ignore[arg-type]
    # The target's own resources count where the job says nothing.
    own: JsonObject = {} if "resources" in str(spec) else {"resources": {"gpu": 1}}
    hub = source("huggingFace", repo="org/base", **TOKEN)
    observed = observed_job(job(own), target=place, model=ready(model(hub), **MODEL_FOUND))
    inputs = resolve(observed)
    assert isinstance(inputs, Inputs), inputs
    request = inputs.request(observed, 1, inputs.settings, None)
    told = (fine_tune_job.decide(observed, NOW).status or {}).get("estimate")
    link = run_link("1", "2", parsed)  # type: ignore[arg-type]
    experiment = inputs.plan.to_json()["tracking"]
    if parsed.kubernetes:  # type: ignore[attr-defined]
        return manifests.build_job(request), told, link, experiment
    cml = parsed.cml  # type: ignore[attr-defined]
    offer = Offer(project_id="p", runtime=choose_runtime(RUNTIMES, cml.runtime))
    script = cml.runner.script if cml.runner else "run.py"
    body = cml_manifests.build_job(request, offer, script, RUNNER).model_dump()
    body["environment"].pop("KUBETUNE_PLAN_DATA", None)
    return body, told, link, experiment, cml.poll, cml.scheduling_timeout_seconds, own and None


EFFECTS: dict[str, Callable[[JsonObject], Any]] = {
    "Dataset": of_dataset,
    "Model": of_model,
    "PromptTemplate": of_prompt,
    "ComputeTarget": of_target,
}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (kind, path)
        for kind in EFFECTS
        for path, proof in TABLES[kind].items()
        if not isinstance(proof, str)
    ],
)
def test_a_setting_changes_what_is_asked(kind: str, path: str) -> None:
    proof = TABLES[kind][path]
    assert not isinstance(proof, str)
    value, around = proof
    effect = EFFECTS[kind]
    assert effect(laid(path, value, around)) != effect(around)


# What would be in vain is refused at admission: kind and spec, and what the refusal names.
IDLE: list[tuple[str, JsonObject, str]] = [
    *(
        ("Dataset", {"format": format, "columns": {role: "other"}}, f"columns.{role}")
        for format, role in (
            ("text", "prompt"),
            ("messages", "completion"),
            ("promptCompletion", "text"),
            ("promptCompletion", "messages"),
            ("text", "chosen"),
            ("unpairedPreference", "rejected"),
            ("preference", "label"),
            ("promptCompletion", "tools"),
        )
    ),
    (
        "Dataset",
        {"splits": {"evaluation": "test", "evaluationFraction": 0.3}},
        "evaluationFraction",
    ),
    ("Dataset", {"splits": {"evaluationFraction": 0, "seed": 3}}, "seed"),
    ("PromptTemplate", {"prompt": "{a}", "completion": "{b}", "sample": True}, "datasetRef"),
    ("ComputeTarget", kubernetes(volumes=[MOUNT, MOUNT]), "more"),
    ("ComputeTarget", merge(IN_CML, {"cml": {"runtime": {"identifier": "r"}}}), "identifier"),
]


@pytest.mark.parametrize(("kind", "spec", "words"), IDLE, ids=lambda value: str(value)[:60])
def test_a_setting_in_vain_is_refused(kind: str, spec: JsonObject, words: str) -> None:
    if kind == "Dataset":
        spec = {"source": {"inline": {"rows": [{"prompt": "a"}]}}} | spec
    with pytest.raises(ValidationError, match=words):
        BY_KIND[kind].spec.model_validate(spec)
