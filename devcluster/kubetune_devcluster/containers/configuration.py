"""The files that containerd, the kubelet, CNI and CoreDNS read."""

import json
import subprocess
from pathlib import Path

import yaml

from kubetune_devcluster.containers import environment, images
from kubetune_devcluster.containers.layout import (
    NODE_ADDRESS,
    PAUSE_IMAGE,
    RUNTIME_HANDLER,
    NodeLayout,
)
from kubetune_devcluster.errors import LocalClusterError


def write(layout: NodeLayout) -> None:
    """Write all of them, and the node's images."""
    for name in ("cni", "logs", "plugins", "images"):
        (layout.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    (layout.folder / "runner-spec.json").write_text(json.dumps(_runner_spec(layout)))
    (layout.folder / "containerd.toml").write_text(_containerd(layout))
    (layout.folder / "cni" / "10-pods.conflist").write_text(json.dumps(_pod_network(layout)))
    (layout.folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(layout)))
    (layout.folder / "Corefile").write_text(_dns(layout))
    pause = images.Image(
        name=PAUSE_IMAGE, command=["/pause"], programs={"pause": layout.runtime_programs / "pause"}
    )
    images.write(pause, layout.folder / "images" / "pause.tar")
    images.write(environment.image(), layout.folder / "images" / "runner.tar")


def _containerd(layout: NodeLayout) -> str:
    # JSON's strings, booleans and lists are TOML's too.
    folder, programs = layout.folder, layout.runtime_programs
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    sections: dict[str, dict[str, object]] = {
        "": {
            "version": 3,
            "root": str(folder / "root"),
            "state": str(folder / "state"),
            "disabled_plugins": [
                "io.containerd.nri.v1.nri",
                "io.containerd.internal.v1.tracing",
                "io.containerd.tracing.processor.v1.otlp",
            ],
        },
        "grpc": {"address": str(layout.socket)},
        "ttrpc": {"address": f"{layout.socket}.ttrpc"},
        "plugins.'io.containerd.cri.v1.images'": {"snapshotter": "overlayfs"},
        "plugins.'io.containerd.cri.v1.images'.pinned_images": {"sandbox": PAUSE_IMAGE},
        runtime: {
            # Machines that are themselves containers may not lower a process's OOM score.
            "restrict_oom_score_adj": True,
            "netns_mounts_under_state_dir": True,
        },
        f"{runtime}.cni": {
            "bin_dirs": [str(programs)],
            "conf_dir": str(folder / "cni"),
            "use_internal_loopback": True,
        },
        f"{runtime}.containerd": {"default_runtime_name": "runc"},
        f"{runtime}.containerd.runtimes.runc": {"runtime_type": "io.containerd.runc.v2"},
        f"{runtime}.containerd.runtimes.{RUNTIME_HANDLER}": {
            "runtime_type": "io.containerd.runc.v2",
            "base_runtime_spec": str(folder / "runner-spec.json"),
        },
    }
    lines: list[str] = []
    for section, values in sections.items():
        lines += [f"[{section}]"] if section else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _runner_spec(layout: NodeLayout) -> object:
    """What containerd's containers start from, with this machine's environment mounted."""
    result = subprocess.run(
        [layout.runtime_programs / "ctr", "oci", "spec"], capture_output=True, text=True
    )
    if result.returncode:
        raise LocalClusterError(f"ctr oci spec: {result.stderr.strip()}")
    spec = json.loads(result.stdout)
    spec["mounts"] += [
        {
            "destination": mount.target,
            "type": "bind",
            "source": str(mount.source),
            "options": ["rbind", "rprivate", "ro", "nosuid", "nodev"],
        }
        for mount in environment.mounts()
    ]
    return spec


def _pod_network(layout: NodeLayout) -> object:
    # No gateway of the plugin's making and no masquerade: the bridge has its address already, and
    # both would change the machine's forwarding for good.
    bridge = {
        "type": "bridge",
        "bridge": layout.device,
        "isGateway": False,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(layout.folder / "addresses"),
            "ranges": [[{"subnet": str(layout.pods), "gateway": str(layout.gateway)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "1.0.0", "name": layout.device, "plugins": [bridge]}


def _kubelet(layout: NodeLayout) -> object:
    cluster, folder = layout.cluster, layout.folder
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(NODE_ADDRESS),
        "port": cluster.ports["kubelet"],
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": cluster.ports["kubelet-health"],
        "tlsCertFile": str(cluster.certificate("kubelet")),
        "tlsPrivateKeyFile": str(cluster.key("kubelet")),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(cluster.certificate("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{layout.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.control_group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "podLogsDir": str(folder / "logs"),
        "volumePluginDir": str(folder / "plugins"),
        "clusterDNS": [str(layout.gateway)],
        "clusterDomain": "cluster.local",
        # The node is a guest on somebody's machine: it doesn't evict for a disk that is nearly
        # full of other things, and there is nowhere to pull a collected image from.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "maxPods": 200,
    }


def _dns(layout: NodeLayout) -> str:
    return f""".:53 {{
    bind {layout.gateway}
    errors
    ready 127.0.0.1:{layout.cluster.ports["coredns"]}
    kubernetes cluster.local {{
        kubeconfig {_quoted(layout.cluster.kubeconfig("dns"))}
        ttl 1
    }}
}}
"""


def _quoted(path: Path) -> str:
    return f'"{path}"'
