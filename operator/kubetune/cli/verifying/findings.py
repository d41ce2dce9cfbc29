"""Compares what a statement says with what is there now; pure, so nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kubetune.api import JsonObject
from kubetune.api.bounded import NOTE, json_value
from kubetune.api.foreign import first_line
from kubetune.api.kinds.status_types import LineageDict
from kubetune.api.run.plan import FILE_LIST, TAG_FILES, TAG_JOB, TAG_METRICS, TAG_NAMESPACE
from kubetune.decide.lineage import changed_parts
from kubetune.tracking.base import RegisteredVersion
from kubetune.tracking.trust import LINEAGE_TAGS

MAX_SHOWN = 80


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    what: str
    state: Literal["ok", "changed", "unknown"]
    said: str


@dataclass(frozen=True)
class Statement:
    """What a signed statement says, by name; what it doesn't say is empty."""

    subjects: dict[str, str]
    """Digest by path."""
    namespace: str
    job: str
    settings: JsonObject
    lineage: LineageDict
    metrics: JsonObject
    registered: JsonObject
    merged: bool

    @staticmethod
    def of(document: JsonObject) -> Statement:
        """Read one of the operator's. Raises LookupError, TypeError, AttributeError."""
        made = document["predicate"]["buildDefinition"]
        byproducts = document["predicate"]["runDetails"]["byproducts"]
        named = {item["name"]: item["annotations"] for item in byproducts}
        outer = made["externalParameters"]
        return Statement(
            subjects={
                item["name"]: f"sha256:{item['digest']['sha256']}" for item in document["subject"]
            },
            namespace=outer["namespace"],
            job=outer["fineTuneJob"],
            settings=outer["settings"],
            lineage=made["internalParameters"]["lineage"],
            metrics=named["metrics"],
            registered=named["registered"],
            merged=bool(outer["merged"]),
        )

    @property
    def files_digest(self) -> str:
        """Of the list of files."""
        return self.subjects.get(FILE_LIST, "")


def of_version(statement: Statement, version: RegisteredVersion) -> list[Finding]:
    """What the registry says of the version now."""
    now: JsonObject = {
        "name": version.name,
        "version": version.version,
        "source": version.source,
        "run": version.run_id,
    }
    found = [_same("version", statement.registered, now)]
    owner = {"namespace": statement.namespace, "job": statement.job}
    tags = version.tags
    found.append(
        _same(
            "owner",
            owner,
            {"namespace": tags.get(TAG_NAMESPACE, ""), "job": tags.get(TAG_JOB, "")},
        )
    )
    try:
        metrics: Any = json_value(tags.get(TAG_METRICS, "{}"), NOTE)
    except ValueError:
        metrics = {}
    found.append(_same("metrics", statement.metrics, metrics if isinstance(metrics, dict) else {}))
    parts: JsonObject = {f"kubetune.{key}": value for key, value in statement.lineage.items()}
    simple = {key: str(value) for key, value in parts.items() if not isinstance(value, list)}
    told = {key: tags.get(key, "") for key in LINEAGE_TAGS if key in simple}
    found.append(_same("lineage", {key: simple[key] for key in told}, told))
    # Whole, to be pinned in a Model.
    found.append(source("filesDigest", statement.files_digest, tags.get(TAG_FILES, "")))
    return found


def of_files(statement: Statement, list_digest: str | None, files: Mapping[str, str]) -> Finding:
    """The files as they lie in the artifact store: ``files`` are all but the list, as they are now.

    Those that the statement names have their digests there; all are in the list that it names.
    """
    if list_digest != statement.files_digest:
        what = "was changed" if list_digest else "is missing"
        return Finding("files", "changed", f"{FILE_LIST}, the list of the files, {what}")
    return Finding("files", "ok", f"{len(files)} files have the digests of their list")


def of_listed(listed: Mapping[str, str], files: Mapping[str, str]) -> list[Finding]:
    """The files that aren't as the list has them."""
    found: list[Finding] = []
    for name in sorted(listed.keys() | files.keys()):
        what = f"file {first_line(name)}"
        if name not in files:
            found.append(Finding(what, "changed", "is missing"))
        elif name not in listed:
            found.append(Finding(what, "changed", "was added"))
        elif listed[name] != files[name]:
            said = f"{_short(listed[name])} then, {_short(files[name])} now"
            found.append(Finding(what, "changed", said))
    return found


def of_job(statement: Statement, effective: JsonObject, lineage: LineageDict) -> list[Finding]:
    """What the FineTuneJob says of itself now."""
    found = [_same("settings", statement.settings, effective)]
    if parts := changed_parts(lineage, statement.lineage):
        found.append(Finding("the job's lineage", "changed", f"{', '.join(parts)} differ"))
    else:
        found.append(Finding("the job's lineage", "ok", "is that of the statement"))
    return found


def source(what: str, then: str, now: str) -> Finding:
    """One source by its digest or revision."""
    if then == now:
        return Finding(what, "ok", _short(then))
    return Finding(what, "changed", f"{_short(then)} then, {_short(now or 'nothing')} now")


def _same(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Finding:
    differ = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not differ:
        return Finding(what, "ok", ", ".join(then) if len(then) < 6 else f"{len(then)} values")
    first = differ[0]
    more = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
    said = f"{first} {_short(then.get(first))} then, {_short(now.get(first))} now{more}"
    return Finding(what, "changed", said)


def _short(value: Any) -> str:
    text = str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
