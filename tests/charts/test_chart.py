"""The Helm chart and the kustomize install are the same thing, and the API server takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from kubetune_devcluster.cluster import LocalCluster

from tests.charts.rendering import CHART, Manifest, by_identity, helm, rendered

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.cluster

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def kustomized(cluster: LocalCluster) -> list[Manifest]:
    text = cluster.kubectl("kustomize", str(ROOT / "manifests" / "install"))
    return [document for document in yaml.safe_load_all(text) if document]


def test_the_chart_renders_what_kustomize_does(kustomized: list[Manifest]):
    chart, install = by_identity(rendered()), by_identity(kustomized)
    # Helm makes the release's namespace itself, with --create-namespace.
    del install["Namespace", "kubetune-system"]
    assert chart == install


def test_the_objects_install_on_a_cluster(cluster: LocalCluster):
    objects = {"apiVersion": "v1", "kind": "List", "items": rendered()}
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=chart-test")
    try:
        cluster.kubectl(*apply, "-f", "-", input=json.dumps(objects))
        deployment = json.loads(
            cluster.kubectl("get", "deployment", "kubetune", "-n", "kubetune-system", "-o", "json")
        )
        assert deployment["spec"]["replicas"] == 2
    finally:
        cluster.kubectl("delete", "deployment", "kubetune", "-n", "kubetune-system")
        cluster.kubectl("delete", "cct", "default")


def test_values_reach_the_objects():
    objects = by_identity(
        rendered(
            *("--set", "installId=prod", "--set", "image.tag=9.9.9"),
            *("--set", "defaultTarget.credentialsSecretName=mlflow"),
            *("--set-json", 'defaultTarget.kubernetes={"nodeSelector":{"gpu":"true"}}'),
        )
    )
    pod = objects["Deployment", "kubetune"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "kubetune/operator:9.9.9"
    assert {"name": "KUBETUNE_INSTALL_ID", "value": "prod"} in pod["containers"][0]["env"]
    target = objects["ClusterComputeTarget", "default"]["spec"]
    assert target["kubernetes"]["nodeSelector"] == {"gpu": "true"}
    assert target["tracking"]["credentialsSecretRef"] == {"name": "mlflow"}


def test_the_default_target_can_be_left_out():
    kinds = {item["kind"] for item in rendered("--set", "defaultTarget.create=false")}
    assert "ClusterComputeTarget" not in kinds


def test_the_pod_installs_the_package_of_a_cml_workspace():
    url = "https://workspace.example.com/api/v2/python.tar.gz"
    objects = by_identity(
        rendered(
            *("--set", f"cml.packageUrl={url}", "--set", "image.tag=9.9.9"),
            *("--set", f"cml.packageSha256={DIGEST}"),
            *("--set", "cml.caBundle.configMapName=corporate-ca"),
            *("--set-json", 'env=[{"name":"PIP_INDEX_URL","value":"https://pypi.example.com"}]'),
        )
    )
    pod = objects["Deployment", "kubetune"]["spec"]["template"]["spec"]
    [init], [operator] = pod["initContainers"], pod["containers"]
    assert init["args"][-1] == f"{url}#sha256={DIGEST}"
    assert init["image"] == operator["image"] == "kubetune/operator:9.9.9"
    assert init["securityContext"] == operator["securityContext"]
    assert {"name": "SSL_CERT_FILE", "value": "/cml-ca/ca.crt"} in init["env"]
    assert {"name": "PIP_INDEX_URL", "value": "https://pypi.example.com"} in init["env"]
    assert {"name": "PYTHONPATH", "value": "/packages"} in operator["env"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["cml-ca"]["configMap"] == {"name": "corporate-ca"}
    for container in (init, operator):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
    # pip needs no rights in the cluster.
    assert "api-access" not in {mount["name"] for mount in init["volumeMounts"]}
    # What pip writes goes into these two; the root is read-only.
    written = {m["mountPath"] for m in init["volumeMounts"] if not m.get("readOnly")}
    assert written == {"/packages", "/tmp"}


def test_the_pod_that_installs_a_package_may_run_in_a_restricted_namespace(cluster: LocalCluster):
    objects = rendered(
        *("--set", "cml.packageUrl=https://127.0.0.1:1/python.tar.gz"),
        *("--set", f"cml.packageSha256={DIGEST}"),
        *("--set", "cml.caBundle.configMapName=corporate-ca"),
    )
    template = by_identity(objects)["Deployment", "kubetune"]["spec"]["template"]
    name = "chart-restricted"
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": level},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "operator", "namespace": name},
        "spec": template["spec"] | {"serviceAccountName": "default"},
    }
    try:
        cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(namespace))
        # A controller makes it some time after the namespace.
        account = ("serviceaccount/default", "--namespace", name)
        cluster.kubectl("wait", "--for=create", "--timeout=60s", *account)
        cluster.kubectl(
            *("create", "--dry-run=server", "--validate=strict", "-f", "-"), input=json.dumps(pod)
        )
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("imag.tag=1", "imag"),
        ("defaultTarget.trackingUri=mlflow:5000", "trackingUri"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("cml.packageUrl=workspace.example.com", "packageUrl"),
        (f"cml.packageUrl=http://workspace.example.com,cml.packageSha256={DIGEST}", "packageUrl"),
        ("cml.packageUrl=https://workspace.example.com", "packageSha256"),
        ("cml.packageUrl=https://workspace.example.com,cml.packageSha256=12ab", "packageSha256"),
        ("cml.caBundle.name=ca", "name"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, named: str):
    result = helm("template", "kubetune", str(CHART), "--set", setting)
    assert result.returncode != 0
    assert named in result.stderr
