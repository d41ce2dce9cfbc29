"""The process node's pure parts: variables, quantities, refusals, statuses, GPUs."""

from pathlib import Path
from typing import Any

import pytest
from kubetune_devcluster.node import environment, status, support
from kubetune_devcluster.node.gpus import Gpus, gpu_share, gpus_of


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    plain = {"image": "kubetune.local/runner:1", "command": ["true"]}
    main = [{"name": f"c{i}", **plain, **c} for i, c in enumerate(containers or ({},))]
    metadata = {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": 'x"y'}}
    return {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": main, **spec}}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-b", "1-b"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("echo $$HOME $HOME", "echo $HOME $HOME"),
        ("$(A", "$(A"),
    ],
)
def test_expand(text: str, expanded: str) -> None:
    assert environment.expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", "0.5"), ("2Gi", str(2**31)), ("3k", "3000"), ("1Ki", "1024"), ("1e3", "1000")],
)
def test_parse_quantity(text: str, number: str) -> None:
    assert str(environment.parse_quantity(text).normalize()) == str(
        environment.parse_quantity(number).normalize()
    )


@pytest.mark.parametrize("text", ["", "1Kx", "x", "1ki", "--1"])
def test_parse_quantity_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        environment.parse_quantity(text)


def test_pod_fields() -> None:
    addresses = {"podIP": "127.1.2.3", "hostIP": "127.0.0.1"}

    def field(path: str) -> str:
        return environment.pod_field(pod(), path, addresses)

    assert field("metadata.labels['a']") == 'x"y'
    assert field("metadata.labels") == 'a="x\\"y"'
    assert field("status.podIP") == "127.1.2.3"
    with pytest.raises(ValueError, match=r"spec\.x"):
        field("spec.x")


def test_resource_fields_round_up_and_fall_back_to_the_node() -> None:
    one = pod({"resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Mi"}}})

    def field(resource: str, divisor: str = "0") -> str:
        reference = {"resource": resource, "divisor": divisor}
        return environment.resource_field(one, "c0", reference, {"memory": "1Gi"})

    assert field("limits.cpu") == "2"
    assert field("limits.cpu", "1m") == "1500"
    assert field("requests.cpu", "1m") == "1500"
    assert field("requests.memory", "1Ki") == "1024"
    assert field("limits.memory", "1Mi") == "1024"


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (pod(restartPolicy="Always"), "restartPolicy is Always"),
        (pod(restartPolicy="OnFailure"), "restartPolicy is OnFailure"),
        (pod({"command": None}), "command is not set"),
        (pod({"livenessProbe": {"exec": {}}}), "livenessProbe"),
        (pod({"lifecycle": {"preStop": {}}}), "lifecycle"),
        (pod({"tty": True}), "tty"),
        (pod({"securityContext": {"privileged": True}}), "privileged"),
        (pod({"ports": [{"containerPort": 80, "hostPort": 8080}]}), "hostPort 8080"),
        (pod({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {}}}]}), "env[A]: fileKeyRef"),
        (pod(ephemeralContainers=[{}]), "ephemeralContainers"),
        (pod(resourceClaims=[{"name": "gpu"}]), "resourceClaims"),
        (pod(os={"name": "windows"}), "spec.os.name is windows"),
        (pod(volumes=[{"name": "v", "nfs": {}}]), "volumes[v]: nfs"),
        (pod(volumes=[{"name": "v", "projected": {"sources": [{"x": {}}]}}]), "projected x"),
        (
            pod(initContainers=[{"name": "i", "command": ["x"], "restartPolicy": "Always"}]),
            "sidecars",
        ),
    ],
)
def test_refusals_name_the_field(refused: dict[str, Any], words: str) -> None:
    assert words in (support.refusal(refused) or "")


def test_restricted_pods_are_taken() -> None:
    context = {"runAsNonRoot": True, "readOnlyRootFilesystem": True}
    ports = [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81}]
    restricted = pod({"securityContext": context, "ports": ports}, hostNetwork=True)
    assert support.refusal(restricted) is None


@pytest.mark.parametrize(
    ("image", "known"),
    [
        ("kubetune.local/runner", True),
        ("kubetune.local/runner:0.1", True),
        ("kubetune.local/runner@sha256:00", True),
        ("kubetune.local/runner2:0.1", False),
        ("localhost:5000/runner", False),
    ],
)
def test_allowed_images(image: str, known: bool) -> None:
    folder = support.image_environment(image, {"kubetune.local/runner": Path("/x")})
    assert folder == (Path("/x") if known else None)


def ended(code: int) -> status.State:
    return status.terminated(code, "r", "", None, None)


RUNNING: status.State = {"running": {}}


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ({}, "Pending"),
        ({"i": RUNNING}, "Pending"),
        ({"i": ended(1)}, "Failed"),
        ({"i": ended(0), "c0": RUNNING}, "Running"),
        ({"i": ended(0), "c0": ended(1), "c1": RUNNING}, "Running"),
        ({"i": ended(0), "c0": ended(1), "c1": ended(0)}, "Failed"),
        ({"i": ended(0), "c0": ended(0), "c1": ended(0)}, "Succeeded"),
    ],
)
def test_phases(states: dict[str, status.State], phase: str) -> None:
    two = pod({}, {}, initContainers=[{"name": "i", "image": "x"}])
    facts = status.Facts({"podIP": "a", "hostIP": "b"}, {}, status.now(), states)
    built = status.build(two, facts, status.Verdict())
    assert built["phase"] == phase
    assert [c["name"] for c in built["containerStatuses"]] == ["c0", "c1"]


def test_a_disruption_is_a_condition_of_a_failed_pod() -> None:
    facts = status.Facts({"podIP": "a", "hostIP": "b"}, {}, status.now(), {"c0": ended(0)})
    built = status.build(pod(), facts, status.Verdict(failed=True, disrupted="stopped"))
    conditions = {c["type"]: c for c in built["conditions"]}
    assert built["phase"] == "Failed"
    assert conditions["DisruptionTarget"]["status"] == "True"


def test_what_the_node_cant_run_is_pending_and_says_why() -> None:
    waiting: status.State = {"waiting": {"reason": "NotSupported", "message": "no probes"}}
    facts = status.Facts({"podIP": "a", "hostIP": "b"}, {}, status.now(), {"c0": waiting})
    built = status.build(pod(), facts, status.Verdict(True, waiting=True))
    assert built["phase"] == "Failed", "a pod that is deleted while it waits still ends"
    verdict = status.Verdict(waiting=True, reason="NotSupported", message="no probes")
    built = status.build(pod(), facts, verdict)
    conditions = {c["type"]: c for c in built["conditions"]}
    assert (built["phase"], built["reason"], built["message"]) == (
        "Pending",
        "NotSupported",
        "no probes",
    )
    assert conditions["Ready"]["status"] == "False"
    assert (conditions["Ready"]["reason"], conditions["Ready"]["message"]) == (
        "NotSupported",
        "no probes",
    )


def test_gpus_are_handed_out_once() -> None:
    def need(count: int) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}

    two = pod(need(1), need(2))
    gpus = Gpus(4)
    assert gpus_of(two) == 3
    assert gpus.take("u", 3)
    assert gpus.take("u", 3), "asking again changes nothing"
    assert [gpu_share(two, c, gpus.held("u")) for c in two["spec"]["containers"]] == [[0], [1, 2]]
    assert not gpus.take("other", 2)
    gpus.release("u")
    assert gpus.take("other", 2)
