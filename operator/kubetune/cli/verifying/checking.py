"""The order in which a version is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import kopf

from kubetune.api.bounded import NOTE, file_text
from kubetune.api.kinds.status_types import FineTuneJobStatusDict, status_of
from kubetune.api.run.plan import TAG_ATTESTATION
from kubetune.attestation import EnvelopeError, key_id, opened
from kubetune.cli.connection import NotThereError
from kubetune.cli.verifying.findings import Finding, Statement, of_files, of_listed, of_version
from kubetune.cli.verifying.registry import Registry
from kubetune.cli.verifying.sources import Cluster
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.tracking.base import RegisteredVersion
from kubetune.tracking.rest import Credentials

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----\n?")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    first: str
    """Namespace, or name of the registered model."""
    second: str
    version: int | None
    """None: it is a job."""
    tracking_uri: str | None
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
    name, number, uri = await _named(request, cluster)
    given = request.tracking_uri is not None
    # Not for an address out of a status: whoever writes that must not get them.
    registry = Registry(uri, Registry.credentials() if given else Credentials())
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


async def _named(request: Request, cluster: Cluster | None) -> tuple[str, int, str]:
    """Name and number of the version, and the server's address."""
    if request.version is not None:
        if request.tracking_uri is None:
            raise NotThereError("give the address of MLflow in --tracking-uri")
        return request.first, request.version, request.tracking_uri
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
    root, page, _ = (status.get("mlflow") or {}).get("url", "").partition("/#/")
    uri = request.tracking_uri or (root if page else None)
    if not uri:
        raise NotThereError(
            f"{named} doesn't tell where MLflow is: give its address in --tracking-uri"
        )
    return registered["name"], registered["version"], uri


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
    registry: Registry, statement: Statement, version: RegisteredVersion
) -> list[Finding]:
    try:
        stored = await registry.stored(version, statement.files_digest)
    except NotThereError as error:
        return [Finding("files", "unknown", str(error))]
    whole = of_files(statement, stored.list_digest, stored.files)
    if whole.state != "ok":
        return [whole]
    return of_listed(stored.listed, stored.files) or [whole]
