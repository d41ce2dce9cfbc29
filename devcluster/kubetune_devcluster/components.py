"""What runs in a local cluster: one ``Component`` each, with its command line.

Flags are here and nowhere else; ``cluster.py`` decides when a component starts and stops.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_NAME = "process-node"
SERVICE_RANGE = "10.96.0.0/24"  # never routed: nothing here proxies Services

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)

# The clients' default of 20 requests a second makes everything with many pods crawl.
CLIENT_RATE = ("--kube-api-qps=500", "--kube-api-burst=1000")


@dataclass(frozen=True)
class Component:
    """One process of the cluster and how to talk to it."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    address: str = ""  # URL for people, empty when there is none
    health: str = ""  # URL that answers 200 when it is ready
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 20  # seconds
    stops_children: bool = False  # it ends its own children: signal nobody but itself


@dataclass(frozen=True)
class Layout:
    """Where one cluster keeps things, and its ports."""

    home: Path
    binaries: Path
    ports: Mapping[str, int] = field(default_factory=dict)

    def certificate(self, name: str) -> Path:
        return self.home / "pki" / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.home / "pki" / f"{name}.key"

    def kubeconfig(self, user: str) -> Path:
        return self.home / ("kubeconfig" if user == "admin" else f"pki/{user}.kubeconfig")

    @property
    def cml_packages(self) -> Path:
        """Where the operator finds the ``cmlapi`` package that the CML simulator serves."""
        return self.home / "cml" / "packages"

    @property
    def cml_key(self) -> Path:
        """The API key of the CML simulator."""
        return self.home / "cml" / "key"

    def url(self, name: str, scheme: str = "https") -> str:
        return f"{scheme}://127.0.0.1:{self.ports[name]}"


def control_plane(layout: Layout) -> list[Component]:
    """The Kubernetes servers, in the order of their start."""
    return [
        _etcd(layout),
        _apiserver(layout),
        _controller_manager(layout),
        _scheduler(layout),
    ]


def process_node(layout: Layout) -> Component:
    folder = layout.home / "node"
    return Component(
        name=NODE_NAME,
        command=[
            *(sys.executable, "-m", "kubetune_devcluster.node"),
            *("--name", NODE_NAME, "--home", folder),
            *("--kubeconfig", layout.kubeconfig("node")),
            *("--serving-cert", layout.certificate("serving")),
            *("--serving-key", layout.key("serving")),
            *("--client-ca", layout.certificate("ca")),
        ],
        environment=_python_environment(),
        # SIGTERM would leave its pods running for the next node process to take over.
        stop_signal=signal.SIGINT,
        # Pods get their own grace from the node (30 s unless they ask for more).
        stop_grace=120,
        stops_children=True,
    )


def mlflow(layout: Layout) -> Component:
    url = layout.url("mlflow", "http")
    return Component(
        name="mlflow",
        command=[
            *(sys.executable, "-m", "kubetune_devcluster.mlflow_server"),
            *("--folder", layout.home / "mlflow", "--port", str(layout.ports["mlflow"])),
        ],
        environment=_python_environment(),
        address=url,
        health=f"{url}/health",
    )


def cml(layout: Layout) -> Component:
    url = layout.url("cml", "http")
    return Component(
        name="cml",
        command=[
            *(sys.executable, "-m", "kubetune_devcluster.cml", "--folder", layout.home / "cml"),
            *("--port", str(layout.ports["cml"]), "--key-file", layout.cml_key),
        ],
        environment=_python_environment(),
        address=url,
        health=f"{url}/healthz",
    )


def operator(layout: Layout) -> Component:
    url = layout.url("operator", "http")
    port = str(layout.ports["operator"])
    # The folder is always there, so that a running operator finds what comes into it later.
    packages = [str(layout.cml_packages), os.environ.get("PYTHONPATH", "")]
    return Component(
        name="operator",
        command=[sys.executable, "-m", "kubetune.cli", "operator", "--health-port", port],
        environment=_python_environment()
        | {
            "KUBECONFIG": str(layout.kubeconfig("operator")),
            "PYTHONPATH": os.pathsep.join(filter(None, packages)),
            # MLflow and the simulator of CML are on this machine, as its targets say.
            "KUBETUNE_EGRESS_ALLOW": ",".join(
                filter(None, ["127.0.0.0/8", "::1", os.environ.get("KUBETUNE_EGRESS_ALLOW")])
            ),
        },
        address=url,
        health=f"{url}/healthz",
    )


def installed(module: str) -> bool:
    """True when a module can be imported; only the packages above it are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _python_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _server_environment() -> dict[str, str]:
    """The Go servers need little of the caller's environment, which may hold credentials.

    GOGC trades their memory for their time.
    """
    needed = ("PATH", "HOME", "TMPDIR", "GOGC")
    return {name: os.environ[name] for name in needed if name in os.environ}


def _etcd(layout: Layout) -> Component:
    client, peer = layout.url("etcd"), layout.url("etcd-peer")
    ca = layout.certificate("etcd-ca")
    certificate, key = layout.certificate("etcd"), layout.key("etcd")
    return Component(
        name="etcd",
        command=[
            layout.binaries / "etcd",
            f"--data-dir={layout.home / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # Any user of the machine can reach a loopback port: ask for a certificate.
            *("--client-cert-auth", f"--trusted-ca-file={ca}"),
            *(f"--cert-file={certificate}", f"--key-file={key}"),
            *("--peer-client-cert-auth", f"--peer-trusted-ca-file={ca}"),
            *(f"--peer-cert-file={certificate}", f"--peer-key-file={key}"),
            # Losing the last writes in a power cut is fine here; waiting for the disk is not.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        environment=_server_environment(),
        address=client,
    )


def _apiserver(layout: Layout) -> Component:
    url = layout.url("kube-apiserver")
    return Component(
        name="kube-apiserver",
        command=[
            layout.binaries / "kube-apiserver",
            f"--etcd-servers={layout.url('etcd')}",
            f"--etcd-cafile={layout.certificate('etcd-ca')}",
            f"--etcd-certfile={layout.certificate('etcd-client')}",
            f"--etcd-keyfile={layout.key('etcd-client')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={layout.ports['kube-apiserver']}",
            # A loopback address may not be advertised; nothing uses the endpoint anyway.
            *("--advertise-address=10.96.0.1", "--endpoint-reconciler-type=none"),
            f"--tls-cert-file={layout.certificate('kube-apiserver')}",
            f"--tls-private-key-file={layout.key('kube-apiserver')}",
            f"--client-ca-file={layout.certificate('ca')}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={layout.key('service-account')}",
            f"--service-account-key-file={layout.key('service-account')}",
            f"--kubelet-client-certificate={layout.certificate('apiserver-kubelet-client')}",
            f"--kubelet-client-key={layout.key('apiserver-kubelet-client')}",
            f"--kubelet-certificate-authority={layout.certificate('ca')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
        ],
        environment=_server_environment(),
        address=url,
        health=f"{url}/readyz",
    )


def _controller_manager(layout: Layout) -> Component:
    return _client_server(
        layout,
        "kube-controller-manager",
        f"--service-account-private-key-file={layout.key('service-account')}",
        f"--root-ca-file={layout.certificate('ca')}",
        "--use-service-account-credentials=true",
        f"--controllers={','.join(CONTROLLERS)}",
    )


def _scheduler(layout: Layout) -> Component:
    return _client_server(layout, "kube-scheduler")


def _client_server(layout: Layout, name: str, *flags: str) -> Component:
    """A server that works for the API server: its identity and its own small HTTPS port."""
    kubeconfig, url = layout.kubeconfig(name), layout.url(name)
    return Component(
        name=name,
        command=[
            layout.binaries / name,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={layout.ports[name]}",
            f"--tls-cert-file={layout.certificate('serving')}",
            f"--tls-private-key-file={layout.key('serving')}",
            "--leader-elect=false",
            "--profiling=false",
            *CLIENT_RATE,
            *flags,
        ],
        environment=_server_environment(),
        address=url,
        health=f"{url}/healthz",
    )
