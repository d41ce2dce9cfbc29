"""What a registered version was made of, as an in-toto statement with SLSA provenance.

People and admission tools read it with the tools of their field; the operator signs it
(kubetune.act.attesting). The result's files are its subjects, by the digests that the run has told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy

from kubetune import __version__
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import FILE_LIST, FILES_DIGEST
from kubetune.decide.fine_tune_job.draft import Draft
from kubetune.tracking.base import RegisteredVersion

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://kubetune.io/fine-tune/v1alpha1"
BUILDER = "https://kubetune.io/operator"
MAX_FILES = 64
MAX_PATH = 256
_COMMIT = re.compile(r"[0-9a-f]{40}")


def statement(
    draft: Draft,
    outcome: Outcome | None,
    files_digest: str | None,
    metrics: Mapping[str, float],
    *,
    merged: bool,
) -> JsonObject | None:
    """The statement about a result; None of one whose files the run has not told."""
    if files_digest is None:
        return None
    observed, status = draft.observed, draft.status
    owner, place, target = observed.job.owner, observed.place, observed.target.spec
    images = (known.block.run_image for known in (place, target) if known and known.block)
    # A record of the place has none: then that of the target as it is now.
    image = next((image for image in images if image), None)
    told: JsonObject = dict(outcome.summary) if outcome else {}
    listed = (told.get("merged") or {}).get("files") if merged else told.get("files")
    times = {"startedOn": status.get("startTime"), "finishedOn": _ended(draft)}
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": FILE_LIST, "digest": _digest(files_digest)},
            *({"name": name, "digest": _digest(found)} for name, found in _files(listed).items()),
        ],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "namespace": owner.namespace,
                    "fineTuneJob": owner.name,
                    "settings": dict(status.get("effective") or {}),
                    "merged": merged,
                },
                "internalParameters": {
                    "lineage": dict(status.get("lineage") or {}),
                    **({"image": image} if image else {}),
                },
                "resolvedDependencies": _sources(draft),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"kubetune": __version__}},
                "metadata": {
                    "invocationId": observed.run_key,
                    **{key: value for key, value in times.items() if value},
                },
                "byproducts": [{"name": "metrics", "annotations": dict(metrics)}],
            },
        },
    }


def about_version(made: JsonObject, version: RegisteredVersion) -> JsonObject:
    """The statement with the version that it is about."""
    told = deepcopy(made)
    registered = {
        "name": version.name,
        "version": version.version,
        "source": version.source,
        "run": version.run_id,
    }
    byproducts: list[JsonObject] = told["predicate"]["runDetails"]["byproducts"]
    byproducts.append({"name": "registered", "annotations": registered})
    return told


def _ended(draft: Draft) -> str | None:
    newest = draft.newest
    return newest.get("endTime") if newest else None


def _sources(draft: Draft) -> list[JsonObject]:
    """What the training was made from, by the digests that were frozen with it."""
    spec, lineage = draft.spec, draft.status.get("lineage") or {}
    rows: JsonObject = {"name": f"dataset/{spec.dataset_ref.name}"}
    if digest := lineage.get("datasetDigest"):
        rows["digest"] = _digest(digest)
    if split := lineage.get("splitDigest"):
        rows["annotations"] = {"splitDigest": split}
    revision = lineage.get("modelRevision", "")
    model: JsonObject = {
        "name": f"model/{spec.model_ref.name}",
        "annotations": {"revision": revision},
    }
    if _COMMIT.fullmatch(revision):
        model["digest"] = {"gitCommit": revision}
    elif re.fullmatch(FILES_DIGEST, revision):
        model["digest"] = _digest(revision)
    return [rows, model]


def _files(listed: object) -> dict[str, str]:
    """What a run has told of its files, as far as it is such a list."""
    if not isinstance(listed, dict) or len(listed) > MAX_FILES:
        return {}
    return {
        name: digest
        for name, digest in listed.items()
        if isinstance(name, str)
        and len(name) <= MAX_PATH
        and name.isprintable()
        and isinstance(digest, str)
        and re.fullmatch(FILES_DIGEST, digest)
    }


def _digest(text: str) -> JsonObject:
    algorithm, _, value = text.partition(":")
    return {algorithm: value}
