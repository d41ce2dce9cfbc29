"""The folders behind a pod's volumes, and where a container mounts them."""

import base64
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from . import environment
from .client import ApiError, Client, Object
from .mounts import Mount

_DEFAULT_TOKEN_SECONDS = 3600


class NotReadyError(Exception):
    """Something a pod needs isn't there yet; the text says what, the caller tries again."""


class References:
    """Reads the ConfigMaps and Secrets that a pod names, from its own namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace

    async def data(self, kind: str, name: str, optional: bool) -> dict[str, bytes]:
        """Contents by key of a `configmap` or `secret`; empty if it is optional and absent."""
        path = f"/api/v1/namespaces/{self.namespace}/{kind}s/{name}"
        try:
            found = await self.client.get(path)
        except ApiError as error:
            if error.status == 404 and optional:
                return {}
            raise NotReadyError(f"{kind} {name!r}: {error}") from None
        texts = found.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(text) for key, text in texts.items()}
        binary = found.get("binaryData") or {}
        return {key: text.encode() for key, text in texts.items()} | {
            key: base64.b64decode(text) for key, text in binary.items()
        }


class Volumes:
    """Prepares one pod's volumes below `folder`."""

    def __init__(
        self,
        references: References,
        folder: Path,
        pod: Object,
        addresses: dict[str, str],
        allocatable: dict[str, str],
    ) -> None:
        self.references, self.folder = references, folder
        self.pod, self.addresses = pod, addresses
        self.allocatable = allocatable

    async def prepare(self) -> dict[str, Path]:
        """The folder or file of each volume, by its name. Raises NotReadyError or OSError."""
        volumes: dict[str, Path] = {}
        for volume in self.pod["spec"].get("volumes") or ():
            kind = next((key for key in volume if key != "name"), "emptyDir")
            source: Object = volume.get(kind) or {}
            folder = self.folder / volume["name"]
            if kind == "hostPath":
                folder = _host_path(source["path"], source.get("type") or "")
            elif kind == "persistentVolumeClaim":
                folder = await self._claim(source["claimName"])
            else:
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o777 if kind == "emptyDir" else 0o755)
            if kind == "projected":
                for part in source.get("sources") or ():
                    ((part_kind, part_source),) = part.items()
                    await self._project(folder, part_kind, part_source, source)
            elif kind in ("configMap", "secret", "downwardAPI"):
                await self._project(folder, kind, source, source)
            volumes[volume["name"]] = folder
        return volumes

    async def _claim(self, name: str) -> Path:
        namespace = self.references.namespace
        client = self.references.client
        try:
            claim = await client.get(
                f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
            )
            bound = claim["spec"].get("volumeName")
            if not bound or (claim.get("status") or {}).get("phase") != "Bound":
                raise NotReadyError(f"persistentVolumeClaim {name!r} is not bound yet")
            volume = (await client.get(f"/api/v1/persistentvolumes/{bound}"))["spec"]
        except ApiError as error:
            raise NotReadyError(f"persistentVolumeClaim {name!r}: {error}") from None
        if "local" in volume:
            return _host_path(volume["local"]["path"], "")
        if "hostPath" in volume:
            return _host_path(volume["hostPath"]["path"], volume["hostPath"].get("type") or "")
        raise NotReadyError(
            f"persistentVolume {bound!r} is neither local nor hostPath: the process node has no "
            "storage drivers; use a volume of one of these types"
        )

    async def _project(self, folder: Path, kind: str, source: Object, around: Object) -> None:
        """Write the files of one configMap, secret, downwardAPI or token source."""
        mode = int(around.get("defaultMode", 0o644))
        if kind == "serviceAccountToken":
            _write(folder, source["path"], (await self._token(source)).encode(), mode)
        elif kind == "downwardAPI":
            for item in source.get("items") or ():
                _write(folder, item["path"], self._item(item), int(item.get("mode", mode)))
        else:
            name = source.get("name") or source.get("secretName") or ""
            optional = bool(source.get("optional"))
            data = await self.references.data(kind.lower(), name, optional)
            items = source.get("items") or [{"key": key, "path": key} for key in data]
            for item in items:
                if item["key"] in data:
                    _write(folder, item["path"], data[item["key"]], int(item.get("mode", mode)))
                elif not optional:
                    raise NotReadyError(f"{kind} {name!r} has no key {item['key']!r}")

    def _item(self, item: Object) -> bytes:
        try:
            if field := item.get("fieldRef"):
                text = environment.pod_field(self.pod, field["fieldPath"], self.addresses)
            else:
                reference = item["resourceFieldRef"]
                text = environment.resource_field(self.pod, "", reference, self.allocatable)
        except ValueError as error:
            raise NotReadyError(f"downwardAPI item {item['path']!r}: {error}") from None
        return text.encode()

    async def _token(self, source: Object) -> str:
        metadata = self.pod["metadata"]
        account = self.pod["spec"].get("serviceAccountName", "default")
        reference: Object = {"kind": "Pod", "apiVersion": "v1"}
        reference |= {"name": metadata["name"], "uid": metadata["uid"]}
        spec: dict[str, Any] = {
            "expirationSeconds": source.get("expirationSeconds", _DEFAULT_TOKEN_SECONDS),
            "boundObjectRef": reference,
            "audiences": [source["audience"]] if source.get("audience") else None,
        }
        path = f"/api/v1/namespaces/{self.references.namespace}/serviceaccounts/{account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        try:
            return (await self.references.client.create(path, body))["status"]["token"]
        except ApiError as error:
            raise NotReadyError(f"token of service account {account!r}: {error}") from None


async def container_variables(
    container: Object,
    references: References,
    base: dict[str, str],
    field: Callable[[Object], str],
) -> dict[str, str]:
    """A container's whole environment: `base`, then envFrom, then env with `$(NAME)` expanded.

    `field` gives the text of a fieldRef or resourceFieldRef. Raises NotReadyError.
    """
    variables = dict(base)
    for source in container.get("envFrom") or ():
        for kind, key in (("configmap", "configMapRef"), ("secret", "secretRef")):
            if named := source.get(key):
                data = await references.data(kind, named["name"], bool(named.get("optional")))
                for name, value in data.items():
                    variables[(source.get("prefix") or "") + name] = _text(value, name)
    for variable in container.get("env") or ():
        value = variable.get("value") or ""
        if source := variable.get("valueFrom"):
            found = await _referenced(variable["name"], source, references, field)
            if found is not None:
                variables[variable["name"]] = found
        else:
            variables[variable["name"]] = environment.expand(value, variables)
    return variables


async def _referenced(
    variable: str,
    source: Object,
    references: References,
    field: Callable[[Object], str],
) -> str | None:
    for kind, key in (("configmap", "configMapKeyRef"), ("secret", "secretKeyRef")):
        if named := source.get(key):
            optional = bool(named.get("optional"))
            data = await references.data(kind, named["name"], optional)
            if named["key"] in data:
                return _text(data[named["key"]], named["key"])
            if optional:
                return None
            raise NotReadyError(
                f"env {variable!r}: {kind} {named['name']!r} has no key {named['key']!r}"
            )
    try:
        return field(source)
    except (ValueError, KeyError) as error:
        raise NotReadyError(f"env {variable!r}: {error}") from None


def container_mounts(
    container: Object, volumes: dict[str, Path], variables: dict[str, str]
) -> list[Mount]:
    """The container's volumeMounts with subPath made. Raises NotReadyError or OSError."""
    mounts: list[Mount] = []
    for mount in container.get("volumeMounts") or ():
        target = str(PurePosixPath("/") / mount["mountPath"])
        source = volumes[mount["name"]]
        expression = mount.get("subPathExpr")
        below = environment.expand(expression, variables) if expression else mount.get("subPath")
        if below:
            source = _below(source, below)
            if not source.exists():
                source.mkdir(parents=True)
        read_only = bool(mount.get("readOnly"))
        mounts.append({"source": str(source), "target": target, "readOnly": read_only})
    return mounts


def _below(volume: Path, path: str) -> Path:
    """A path in the volume with its links resolved; a link may not lead out of the volume."""
    root = os.path.realpath(volume)
    resolved = os.path.realpath(f"{root}/{path}")
    if os.path.commonpath([root, resolved]) != root:
        raise NotReadyError(f"subPath {path!r} leads out of its volume; name a path inside it")
    return Path(resolved)


def _write(folder: Path, path: str, data: bytes, mode: int) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Replaced rather than rewritten: the file may be read-only, or open in another container.
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600)
    temporary.write_bytes(data)
    temporary.chmod(mode)
    temporary.replace(target)


def _host_path(path: str, kind: str) -> Path:
    folder = Path(path)
    if kind == "DirectoryOrCreate":
        folder.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        folder.touch(exist_ok=True)
    checks = {"Directory": folder.is_dir, "File": folder.is_file}
    if not checks.get(kind.removesuffix("OrCreate"), folder.exists)():
        raise NotReadyError(
            f"path {path!r} on the node is no {kind or 'file or folder'}; create it"
        )
    return folder


def _text(value: bytes, key: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise NotReadyError(f"key {key!r} is not UTF-8 text: mount it as a file instead") from None
