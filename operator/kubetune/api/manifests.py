"""Reads manifests from files: YAML text to objects of our kinds, strictly.

The command line and the tests use it. Objects of other groups pass unread. Errors name the file,
the line, the field, the value and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from kubetune.api import API_VERSION, GROUP, yaml_text
from kubetune.api.kinds.dataset.inline import INLINE_ROWS, inline_fault, inline_rows_size
from kubetune.api.kinds.dataset.sources import INLINE_LIMIT_BYTES
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.api.kinds.table import BY_KIND, Kind
from kubetune.api.schema import errors
from kubetune.api.schema.base import DNS_SUBDOMAIN, Value
from kubetune.api.schema.errors import Problem

_OBJECT_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA_FIELDS = (
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


class ManifestError(ValueError):
    """Manifests that are refused; ``lines`` has one message for each reason."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class Manifest:
    """One object of one of our kinds."""

    kind: Kind
    name: str
    """metadata.name, or metadata.generateName where the API server completes it."""
    namespace: str | None
    spec: Value
    object: dict[str, Any]
    """The whole object as it stands in the file."""


def read_manifests(paths: Iterable[Path]) -> list[Manifest]:
    """The objects of our kinds in files, and in the .yaml and .yml files of folders.

    Raises ManifestError with all problems of all files.
    """
    manifests: list[Manifest] = []
    messages: list[str] = []
    for path in paths:
        for file in _files(path):
            try:
                manifests += parse_manifests(file.read_text(encoding="utf-8"), str(file))
            except ManifestError as error:
                messages += error.lines
            except UnicodeDecodeError as error:
                messages.append(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8")
            except OSError as error:
                messages.append(f"{file}: {error.strerror}")
    if messages:
        raise ManifestError(messages)
    return manifests


def parse_manifests(text: str, source: str = "<text>") -> list[Manifest]:
    """The objects of our kinds in a YAML text. Raises ManifestError; ``source`` names the text."""
    manifests: list[Manifest] = []
    messages: list[str] = []
    try:
        for document in yaml_text.read(text):
            for prefix, value in _objects(document.value):
                try:
                    manifest = parse_object(value)
                except ObjectError as error:
                    messages += [
                        f"{source}:{document.line_of((*prefix, *problem.path))}: {problem}"
                        for problem in error.problems
                    ]
                else:
                    manifests += [manifest] if manifest else []
                    messages += [
                        f"{source}:{document.line_of((*prefix, *problem.path))}: {problem}"
                        for problem in _cell_problems(manifest)
                    ]
    except yaml_text.YamlError as error:
        messages.append(f"{source}:{error.line}: {error.message}")
    if messages:
        raise ManifestError(messages)
    return manifests


class ObjectError(ValueError):
    """An object that is refused."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def parse_object(value: object) -> Manifest | None:
    """The object of one of our kinds, or None for another group's. Raises ObjectError."""
    if not isinstance(value, Mapping):
        raise ObjectError([Problem((), f"must be an object, not {errors.shown(value)}")])
    given = dict(cast("Mapping[str, Any]", value))
    kind = _kind(given)
    if kind is None:
        return None
    problems = [
        *_unknown(given, _OBJECT_FIELDS, ()),
        *_metadata_problems(given.get("metadata"), kind),
    ]
    spec: Value | None = None
    try:
        spec = kind.spec.model_validate(given.get("spec"))
        problems += _size_problems(spec)
    except ValidationError as error:
        problems += errors.problems(error, kind.spec, ("spec",))
    if problems or spec is None:
        raise ObjectError(problems)
    metadata = given["metadata"]
    return Manifest(
        kind=kind,
        name=metadata.get("name") or metadata["generateName"],
        namespace=metadata.get("namespace"),
        spec=spec,
        object=given,
    )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml"))
    return [path]


def _objects(value: Any) -> Iterator[tuple[errors.Path, Any]]:
    """The value, or the items of a List such as `kubectl get -o yaml` prints."""
    if isinstance(value, dict):
        document = cast("dict[str, Any]", value)
        if document.get("kind") == "List" and isinstance(document.get("items"), list):
            for index, item in enumerate(document["items"]):
                yield ("items", index), item
            return
    yield (), value


def _kind(given: dict[str, Any]) -> Kind | None:
    api_version, name = given.get("apiVersion"), given.get("kind")
    for field, value in (("apiVersion", api_version), ("kind", name)):
        if not isinstance(value, str):
            raise ObjectError([Problem((field,), "is required and must be text")])
    if str(api_version).split("/")[0] != GROUP:
        return None
    if api_version != API_VERSION:
        message = f"must be {API_VERSION}, not {errors.shown(api_version)}"
        raise ObjectError([Problem(("apiVersion",), message)])
    if name not in BY_KIND:
        raise ObjectError([Problem(("kind",), f"unknown kind; {_suggestion(str(name), BY_KIND)}")])
    return BY_KIND[name]


def _metadata_problems(metadata: object, kind: Kind) -> list[Problem]:
    path = ("metadata",)
    if not isinstance(metadata, dict):
        return [Problem(path, "is required: a map with a name")]
    given = cast("dict[str, Any]", metadata)
    problems = list(_unknown(given, _METADATA_FIELDS, path))
    name = given.get("name")
    if name is None and not isinstance(given.get("generateName"), str):
        problems.append(Problem(path, "needs a name or a generateName"))
    elif name is not None and not (
        isinstance(name, str) and len(name) <= 253 and re.fullmatch(DNS_SUBDOMAIN, name)
    ):
        message = (
            "must have at most 253 lower-case letters, digits, - and ., and start and end with a"
            f" letter or digit; {errors.shown(name)} does not"
        )
        problems.append(Problem((*path, "name"), message))
    if not kind.namespaced and given.get("namespace"):
        message = f"a {kind.kind} belongs to the whole cluster; remove it"
        problems.append(Problem((*path, "namespace"), message))
    return problems


def _unknown(given: dict[str, Any], known: Iterable[str], path: errors.Path) -> Iterator[Problem]:
    for name in given.keys() - set(known):
        yield Problem((*path, name), f"unknown field; {_suggestion(name, known)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _cell_problems(manifest: Manifest | None) -> list[Problem]:
    """What the API server takes and the operator refuses: cells that YAML has changed."""
    if manifest is None or not isinstance(manifest.spec, DatasetSpec):
        return []
    fault = inline_fault(manifest.spec)
    return [Problem((*INLINE_ROWS, *fault[0]), fault[1])] if fault else []


def _size_problems(spec: Value) -> list[Problem]:
    """A limit that the API server can't express: it counts bytes, not characters."""
    if not isinstance(spec, DatasetSpec) or spec.source.inline is None:
        return []
    size = inline_rows_size(spec.source.inline.rows)
    if size <= INLINE_LIMIT_BYTES:
        return []
    message = (
        f"{size} bytes of rows, and at most {INLINE_LIMIT_BYTES} are accepted; put them into a file"
        " and use source.volume, source.http or source.huggingFace"
    )
    return [Problem(INLINE_ROWS, message)]
