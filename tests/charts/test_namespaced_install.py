"""An operator that has Roles in some namespaces and nothing in the cluster does its work there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubetune.api.kinds.table import BY_KIND
from kubetune_devcluster.cluster import LocalCluster

from tests.charts.rendering import Manifest, rendered
from tests.cluster.namespace import ROWS, Namespace, condition
from tests.cluster.operator_process import Operator

INSTALL_ID = "a-team-alone"
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "Namespace"} | {
    kind.kind for kind in BY_KIND.values() if not kind.namespaced
}

pytestmark = pytest.mark.cluster


@pytest.fixture
def others(cluster: LocalCluster) -> Iterator[Namespace]:
    """A namespace that isn't the operator's."""
    space = Namespace(cluster)
    yield space
    space.close()


@pytest.fixture
def served(cluster: LocalCluster) -> Iterator[Namespace]:
    """A namespace that the operator is installed for, and in."""
    space = Namespace(cluster)
    yield space
    space.close()


def objects_for(space: Namespace) -> list[Manifest]:
    """What the chart installs for one namespace, into it."""
    return rendered(
        *("--set", f"namespaces={{{space.namespace}}}", "--set", f"installId={INSTALL_ID}"),
        namespace=space.namespace,
    )


def credentials(cluster: LocalCluster, space: Namespace, path: Path) -> Path:
    """A kubeconfig of the installed operator's service account."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "kubetune", "--namespace", space.namespace)
    config["users"][0]["user"] = {"token": token.strip()}
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def test_an_operator_with_roles_alone(
    cluster: LocalCluster,
    operator_process: Operator,
    served: Namespace,
    others: Namespace,
    tmp_path: Path,
) -> None:
    installed = [o for o in objects_for(served) if o["kind"] != "CustomResourceDefinition"]
    assert CLUSTER_WIDE.isdisjoint(o["kind"] for o in installed)
    [deployment] = [o for o in installed if o["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item.get("value", "") for item in container["env"]}
    [target] = [o for o in installed if o["kind"] == "ComputeTarget"]
    assert target["metadata"]["namespace"] == served.namespace
    # The image isn't here: the operator runs beside, as the account and with the arguments.
    beside = ("ServiceAccount", "Role", "RoleBinding", "NetworkPolicy")
    account = [o for o in installed if o["kind"] in beside]
    apply = ("apply", "--server-side", "-f", "-")
    cluster.kubectl(
        *apply, input=json.dumps({"apiVersion": "v1", "kind": "List", "items": account})
    )

    operator_process.stop()
    operator = Operator(cluster, tmp_path)
    arguments = container["args"][container["args"].index("--namespace") :]
    kubeconfig = credentials(cluster, served, tmp_path / "kubeconfig")
    environment |= {"KUBECONFIG": str(kubeconfig)}
    environment |= {"KUBETUNE_OPERATOR_NAMESPACE": served.namespace}
    try:
        operator.start(environment=environment, arguments=tuple(arguments))
        others.create("Dataset", "rows", {"source": {"inline": {"rows": ROWS}}})
        served.inputs()
        served.job("trained")
        served.phase("trained", "Running")
        pods = served.children("Pod", "trained")
        assert pods
        policy = cluster.kubectl(
            *(
                "get",
                "networkpolicy",
                "kubetune-runs",
                "--namespace",
                served.namespace,
                "-o",
                "json",
            )
        )
        [wanted] = json.loads(policy)["spec"]["podSelector"]["matchExpressions"]
        assert all(wanted["key"] in pod["metadata"]["labels"] for pod in pods)
        served.end("trained")
        body = served.phase("trained", "Succeeded")
        assert condition(body, "Ready")[0] == "True"
        assert "status" not in others.get("Dataset", "rows")
    finally:
        operator.stop()
        print(operator.log.read_text())
