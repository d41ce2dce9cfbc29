"""Reads from the cluster what a version was made of, and the keys that prove it."""

from __future__ import annotations

from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import FineTuneJobStatusDict, status_of
from kubetune.attestation import CONFIG_MAP, key_id
from kubetune.cli.connection import NotThereError
from kubetune.cli.verifying.findings import Finding, Statement, of_job, source
from kubetune.clients.kubernetes import ApiError, KubernetesClient, NotFoundError
from kubetune.decide.inspected.model import output_uri
from kubetune.decide.lineage import model_identity
from kubetune.decide.resources import DatasetResource, FineTuneJobResource, ModelResource
from kubetune.decide.sources import model_source
from kubetune.observe.objects import made_by, parse


class Cluster:
    """The objects of one cluster."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def public_keys(self, namespace: str) -> dict[str, str]:
        """The operator's public keys by their ids. Raises NotThereError."""
        try:
            found = await self._client.get("ConfigMap", namespace, CONFIG_MAP)
        except ApiError as error:
            raise NotThereError(
                f"ConfigMap {namespace}/{CONFIG_MAP}, which has the operator's public keys, can't"
                f" be read: {error}; name the operator's namespace in --operator-namespace, or"
                " give a file with the keys in --keys"
            ) from None
        data: dict[str, str] = found.get("data") or {}
        return {key_id(pem): pem for pem in data.values()}

    async def find(self, kind: str, namespace: str, name: str | None) -> JsonObject | None:
        """An object; None where there is none. Raises NotThereError."""
        if not name:
            return None
        try:
            return await self._client.get(kind, namespace, name)
        except NotFoundError:
            return None
        except ApiError as error:
            raise NotThereError(f"{kind} {namespace}/{name}: {error}") from None

    async def findings(self, statement: Statement) -> list[Finding]:
        """The job and what it names, as they are now. Raises NotThereError."""
        namespace = statement.namespace
        body = await self.find("FineTuneJob", namespace, statement.job)
        if body is None:
            said = f"FineTuneJob {namespace}/{statement.job} is gone, and with it what it named"
            return [Finding("sources", "unknown", said)]
        job: FineTuneJobResource = parse(body)
        status: FineTuneJobStatusDict = status_of(body)
        found = of_job(statement, dict(status.get("effective") or {}), status.get("lineage") or {})
        if job.spec is None:
            return [*found, Finding("sources", "unknown", job.problem)]
        name = job.spec.dataset_ref.name
        rows = await self.find("Dataset", namespace, name)
        found += _rows(statement, name, parse(rows) if rows else None)
        found.append(await self._model(statement, namespace, job.spec.model_ref.name))
        return found

    async def _model(self, statement: Statement, namespace: str, name: str) -> Finding:
        model, job = await self._with_job(namespace, name)
        if model is None or model.spec is None or not model.is_ready:
            return Finding(f"Model {name}", "unknown", "it is gone, or not Ready")
        reference = model.spec.base_model_ref
        base, base_job = await self._with_job(namespace, reference.name if reference else None)
        plan, _ = model_source(
            model.name,
            model.spec,
            model.status,
            registry_uri=output_uri(model, job),
            base=(base.name, base.spec, base.status) if base and base.spec else None,
            base_registry_uri=output_uri(base, base_job) if base else None,
        )
        then = statement.lineage.get("modelRevision", "")
        return source(f"Model {name}", then, model_identity(plan))

    async def _with_job(
        self, namespace: str, name: str | None
    ) -> tuple[ModelResource | None, FineTuneJobResource | None]:
        """A Model and the job that has made it."""
        body = await self.find("Model", namespace, name)
        if body is None:
            return None, None
        made = await self.find("FineTuneJob", namespace, made_by(body))
        model: Any = parse(body)
        return model, parse(made) if made else None


def _rows(statement: Statement, name: str, dataset: DatasetResource | None) -> list[Finding]:
    if dataset is None or not dataset.is_ready:
        return [Finding(f"Dataset {name}", "unknown", "it is gone, or not Ready")]
    then, now = statement.lineage, dataset.status
    return [
        source(f"Dataset {name}", then.get("datasetDigest", ""), now.get("digest", "")),
        source(f"split of {name}", then.get("splitDigest", ""), now.get("splitDigest", "")),
    ]
