"""The order in which a version is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp
import kopf

from kubetune.api.bounded import NOTE, file_text
from kubetune.api.kinds.status_types import FineTuneJobStatusDict, status_of
from kubetune.api.run.plan import TAG_ATTESTATION
from kubetune.attestation import EnvelopeError, key_id, opened
from kubetune.cli.connection import NotThereError
from kubetune.cli.verifying.cml import CmlVersions
from kubetune.cli.verifying.findings import Finding, Statement, of_files, of_listed, of_version
from kubetune.cli.verifying.registry import Registry, Stored
from kubetune.cli.verifying.sources import Cluster
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.tracking.base import RegisteredVersion
from kubetune.tracking.rest import Credentials

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----\n?")


@dataclass(frozen=True)
class Workspace:
    """A CML workspace, as the command line names it."""

    url: str
    project: str | None
    """Name or id; None: the job's."""
    api_key: str = field(repr=False)
    ca_pem: str | None


class Versions(Protocol):
    """Where a version is registered."""

    async def version(self, name: str, number: int) -> RegisteredVersion:
        """A version. Raises NotThereError."""
        ...

    async def stored(self, version: RegisteredVersion, expected: str) -> Stored:
        """Its files, where ``expected`` is the digest of their list. Raises NotThereError."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    first: str
    """Namespace, or name of the registered model."""
    second: str
    version: int | None
    """None: it is a job."""
    tracking_uri: str | None
    workspace: Workspace | None
    """Where the version is when it isn't in an MLflow server."""
    operator_namespace: str
    keys: Path | None
    files: bool


async def check(request: Request) -> tuple[str, list[Finding]]:
    """A title and what was compared. Raises NotThereError."""
    try:
        client: KubernetesClient | None = KubernetesClient.connect()
    except kopf.LoginError as error:
        if request.version is None or request.keys is None:
            raise NotThereError(str(error)) from None
        # A version with its keys can be checked without any cluster.
        client = None
    try:
        cluster = Cluster(client) if client else None
        return await _check(request, cluster)
    except (aiohttp.ClientError, OSError) as error:
        raise NotThereError(f"the cluster can't be reached: {error}") from None
    finally:
        if client:
            await client.close()


async def _check(request: Request, cluster: Cluster | None) -> tuple[str, list[Finding]]:
    name, number, registry = await _named(request, cluster)
    try:
        version = await registry.version(name, number)
        title = f"registered model {name} version {number}"
        public = await _public_keys(request, cluster)
        statement = _statement(version, public)
        if isinstance(statement, Finding):
            return title, [statement]
        title += f", of FineTuneJob {statement.namespace}/{statement.job}"
        findings = [Finding("signature", "ok", "the statement is the operator's")]
        findings += of_version(statement, version)
        if request.files:
            findings += await _files(registry, statement, version)
    finally:
        await registry.close()
    if cluster is None:
        return title, [*findings, Finding("sources", "unknown", "no cluster is named")]
    return title, findings + await cluster.findings(statement)


async def _named(request: Request, cluster: Cluster | None) -> tuple[str, int, Versions]:
    """Name and number of the version, and where it is."""
    if request.version is not None:
        return request.first, request.version, _given(request, project=None, uri=None)
    if cluster is None:
        raise NotThereError("no cluster is named")
    named = f"FineTuneJob {request.first}/{request.second}"
    body = await cluster.find("FineTuneJob", request.first, request.second)
    if body is None:
        raise NotThereError(f"{named} doesn't exist")
    status: FineTuneJobStatusDict = status_of(body)
    registered = (status.get("result") or {}).get("registered")
    if registered is None:
        raise NotThereError(f"{named} has no registered version: see its condition Registered")
    external = status.get("external") or {}
    root, page, _ = (status.get("mlflow") or {}).get("url", "").partition("/#/")
    if not page and (workspace := external.get("workspace")) and request.workspace is None:
        raise NotThereError(
            f"{named} ran in the CML workspace {workspace}: give --cml-url {workspace} and an API"
            " key in $CDSW_APIV2_KEY; or give --tracking-uri if its versions are in MLflow"
        )
    versions = _given(request, external.get("projectId"), root if page else None)
    return registered["name"], registered["version"], versions


def _given(request: Request, project: str | None, uri: str | None) -> Versions:
    """Where the command line says that versions are, else where the job's status does."""
    if workspace := request.workspace:
        project = workspace.project or project
        if project is None:
            raise NotThereError("give the project in the workspace, by name or id: --cml-project")
        return CmlVersions(workspace.url, project, workspace.api_key, workspace.ca_pem)
    if request.tracking_uri is not None:
        return Registry(request.tracking_uri, Registry.credentials())
    if uri is None:
        raise NotThereError(
            "give the address of MLflow in --tracking-uri, or of the CML workspace in --cml-url"
        )
    # Without credentials: whoever writes a status must not get them.
    return Registry(uri, Credentials())


async def _public_keys(request: Request, cluster: Cluster | None) -> Mapping[str, str]:
    if request.keys is not None:
        pems = _PEM.findall(file_text(request.keys, NOTE))
        if not pems:
            raise NotThereError(f"{request.keys} has no public key (PEM)")
        return {key_id(f"{pem.strip()}\n"): pem for pem in pems}
    if cluster is None:
        raise NotThereError("give the operator's public keys in --keys")
    return await cluster.public_keys(request.operator_namespace)


def _statement(version: RegisteredVersion, public: Mapping[str, str]) -> Statement | Finding:
    text = version.tags.get(TAG_ATTESTATION)
    if text is None:
        said = "it has no statement: it wasn't registered by an operator that writes some"
        return Finding("signature", "changed", said)
    try:
        return Statement.of(opened(text, public))
    except (EnvelopeError, LookupError, TypeError, AttributeError) as error:
        return Finding("signature", "changed", f"the statement is not the operator's: {error}")


async def _files(
    registry: Versions, statement: Statement, version: RegisteredVersion
) -> list[Finding]:
    try:
        stored = await registry.stored(version, statement.files_digest)
    except NotThereError as error:
        return [Finding("files", "unknown", str(error))]
    whole = of_files(statement, stored.list_digest, stored.files)
    if whole.state != "ok":
        return [whole]
    return of_listed(stored.listed, stored.files) or [whole]
