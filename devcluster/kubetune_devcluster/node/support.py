"""Which pods the process node takes: the allow-list of images, and what it refuses to imitate.

A refused pod stays Pending with a sentence, as a pod that half works costs its user more time,
and one that fails is made again at once by its ReplicaSet.
Settings that only restrict a pod (users, read-only root, dropped capabilities, memory limits)
are accepted and not enforced: docs/process-node.md says so.
"""

from collections.abc import Mapping
from pathlib import Path

from .client import Object

VOLUME_KINDS = (
    "emptyDir",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
    "hostPath",
    "persistentVolumeClaim",
)
_PROJECTION_KINDS = ("serviceAccountToken", "configMap", "secret", "downwardAPI")
_HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_TERMINAL = ("stdin", "tty")
_VALUE_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")


def refusal(pod: Object) -> str | None:
    """Why the node will not run this pod, as a sentence for its user; None if it will."""
    spec = pod["spec"]
    if spec.get("restartPolicy") != "Never":
        return (
            f"spec.restartPolicy is {spec.get('restartPolicy')}: the process node runs pods once; "
            "set it to Never and let a Job make new pods"
        )
    if (system := (spec.get("os") or {}).get("name", "linux")) != "linux":
        return f"spec.os.name is {system}: the process node runs programs of this machine"
    if spec.get("resourceClaims"):
        return "spec.resourceClaims: the process node has no device drivers; ask for nvidia.com/gpu"
    if spec.get("ephemeralContainers"):
        return "spec.ephemeralContainers: the process node has none; debug with kubectl logs"
    for where in ("initContainers", "containers"):
        for container in spec.get(where) or ():
            if reason := _container_refusal(container):
                return f"spec.{where}[{container['name']}].{reason}"
    for volume in spec.get("volumes") or ():
        if reason := _volume_refusal(volume):
            return f"spec.volumes[{volume['name']}]: {reason}"
    return None


def _container_refusal(container: Object) -> str | None:
    if not container.get("command"):
        return "command is not set: images of the process node have no entry point; set it"
    if container.get("restartPolicy"):
        return "restartPolicy: the process node has no sidecars; use a plain container"
    for handler in _HANDLERS:
        if container.get(handler):
            return f"{handler}: the process node runs no probes and hooks; remove it"
    for terminal in _TERMINAL:
        if container.get(terminal):
            return f"{terminal}: the process node can't attach to containers; remove it"
    if container.get("volumeDevices"):
        return "volumeDevices: the process node has no block devices; use volumeMounts"
    if (container.get("securityContext") or {}).get("privileged"):
        return "securityContext.privileged: the process node gives no extra rights; remove it"
    for port in container.get("ports") or ():
        if port.get("hostPort") and port["hostPort"] != port["containerPort"]:
            return (
                f"ports: hostPort {port['hostPort']} is not containerPort {port['containerPort']}: "
                "processes listen on the machine's own ports; set both to the same"
            )
    for variable in container.get("env") or ():
        for kind in variable.get("valueFrom") or ():
            if kind not in _VALUE_SOURCES:
                return f"env[{variable['name']}]: {kind}: use {', '.join(_VALUE_SOURCES)}"
    return None


def _volume_refusal(volume: Object) -> str | None:
    kinds = [kind for kind in volume if kind != "name"]
    if kinds and kinds[0] not in VOLUME_KINDS:
        return f"{kinds[0]} is not supported by the process node; use {', '.join(VOLUME_KINDS)}"
    for source in (volume.get("projected") or {}).get("sources") or ():
        for kind in source:
            if kind not in _PROJECTION_KINDS:
                return f"projected {kind}: use {', '.join(_PROJECTION_KINDS)}"
    return None


def image_environment(image: str, images: Mapping[str, Path]) -> Path | None:
    """The Python environment that stands for an image of any tag or digest; None if unknown."""
    name = image.split("@")[0]
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        name = head
    return images.get(name)


def unknown_image(image: str, images: Mapping[str, Path]) -> str:
    """The sentence a user sees on a pod whose image isn't on the allow-list."""
    return (
        f"image {image!r} is not on the process node's list: it runs no container images. "
        f"Use one of: {', '.join(sorted(images))}; or start the node with --image NAME=FOLDER "
        "to let the Python environment in FOLDER stand for it"
    )
