"""Bodies from the watch as decide's parsed resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.kinds.compute_target.spec import DEFAULT_TARGET_ANNOTATION, ComputeTargetSpec
from kubetune.api.kinds.status_types import ModelStatusDict, status_of
from kubetune.api.kinds.table import BY_KIND
from kubetune.api.schema.base import Value
from kubetune.api.schema.references import ComputeTargetRef
from kubetune.clients.deep_objects import MAX_DEPTH, NESTED
from kubetune.decide.decision import parse_time
from kubetune.decide.resources import Resource, Target, TargetResource
from kubetune.decide.target.place import place_of
from kubetune.names import JOB
from kubetune.observe.cache import ObjectCache, key_of
from kubetune.observe.references import TARGET_KINDS
from kubetune.queue import Key
from kubetune.targets.values import FINISHED, Owner, RunState


def key_of_resource(resource: Resource[Any, Any]) -> Key:
    """What cache and queue know an object by."""
    owner = resource.owner
    return Key(owner.kind, owner.namespace, owner.name)


def parse(body: JsonObject) -> Resource[Any, Any]:
    """An object of one of our kinds; unknown fields of a newer CRD are ignored."""
    metadata = body["metadata"]
    known = _Known(
        body["kind"],
        metadata.get("namespace", ""),
        metadata["name"],
        metadata["uid"],
        metadata["generation"],
        metadata["creationTimestamp"],
    )
    owner, created, spec, problem = _lasting(_Once(known, body.get("spec") or {}))
    return Resource(
        owner=owner,
        generation=metadata["generation"],
        created=created,
        deleting="deletionTimestamp" in metadata,
        annotations=metadata.get("annotations") or {},
        finalizers=tuple(metadata.get("finalizers") or ()),
        labels=metadata.get("labels") or {},
        spec=spec,
        problem=problem,
        status=status_of(body),
        deleted=parse_time(metadata.get("deletionTimestamp")),
    )


def find(
    cache: ObjectCache, kind: str, namespace: str, name: str | None
) -> Resource[Any, Any] | None:
    """A parsed object from the cache; None when it isn't there or no name was given."""
    body = cache.get(kind, namespace, name) if name else None
    return parse(body) if body else None


def source_job(cache: ObjectCache, model: Resource[Any, Any] | None) -> Resource[Any, Any] | None:
    """The FineTuneJob whose output a Model is; None when it is something else."""
    spec = model.spec if model else None
    if model is None or spec is None or spec.source.fine_tune_job is None:
        return None
    return find(cache, "FineTuneJob", model.owner.namespace, spec.source.fine_tune_job.name)


def made_by(model: JsonObject) -> str | None:
    """The FineTuneJob that has made a Model; a user may have removed the annotation."""
    status: ModelStatusDict = status_of(model)
    return status.get("madeBy") or (model["metadata"].get("annotations") or {}).get(JOB)


def resolve_target(
    cache: ObjectCache, namespace: str, reference: ComputeTargetRef | None, begun: str | None = None
) -> Target:
    """The target that a reference names, else the namespace's default, else the cluster's.

    ``begun`` is the label of the target that runs were started on: they continue there though it is
    being deleted, where nothing else may begin.
    """
    if reference is not None:
        kind, name = reference.kind, reference.name
        scope = "" if kind == "ClusterComputeTarget" else namespace
        body = cache.get(kind, scope, name)
        if body is None:
            return Target(kind, name, None, False, f"waiting for {kind} {name} to be created")
        return _target(body, begun)
    for scope in (namespace, ""):
        if defaults := default_targets(cache, scope, begun):
            return _target(defaults[0], begun)
    return Target(
        "ClusterComputeTarget",
        "",
        None,
        False,
        "no compute target: name one in spec.computeTargetRef, or annotate a ComputeTarget or"
        f' ClusterComputeTarget with {DEFAULT_TARGET_ANNOTATION}: "true"',
    )


def default_targets(
    cache: ObjectCache, namespace: str, begun: str | None = None
) -> list[JsonObject]:
    """Those of a namespace, or of the cluster for an empty one; the first by name counts.

    What is being deleted counts no more, but for those who have begun there.
    """
    found = [
        body
        for body in cache.of_kind(TARGET_KINDS[0] if namespace else TARGET_KINDS[1], namespace)
        if (body["metadata"].get("annotations") or {}).get(DEFAULT_TARGET_ANNOTATION) == "true"
        and ("deletionTimestamp" not in body["metadata"] or _label(body) == begun)
    ]
    return sorted(found, key=lambda body: key_of(body).name)


def default_instead(
    cache: ObjectCache,
    namespace: str,
    target: Target,
    reference: ComputeTargetRef | None,
    runs: Iterable[RunState],
) -> Target:
    """Where to continue when the default target that was used is gone.

    What was begun there ends there, and who names a target waits for it.
    """
    if target.spec is not None or reference is not None:
        return target
    if any(run.phase not in FINISHED for run in runs):
        return target
    return resolve_target(cache, namespace, None)


def recorded_target(label: str | None) -> ComputeTargetRef | None:
    """The reference behind a target's label in a status: what was begun there ends there."""
    kind, _, name = (label or "").partition("/")
    if kind not in TARGET_KINDS or not name:
        return None
    return _reference(kind, name)


@lru_cache(maxsize=1024)
def _reference(kind: str, name: str) -> ComputeTargetRef:
    return ComputeTargetRef.model_validate({"kind": kind, "name": name})


def recorded_place(
    cache: ObjectCache, namespace: str, external: Mapping[str, Any]
) -> ComputeTargetSpec | None:
    """Where a record in a status leads to; None without one."""
    reference = recorded_target(external.get("target"))
    present = resolve_target(cache, namespace, reference).spec if reference else None
    return place_of(external, present)


def _label(body: JsonObject) -> str:
    return f"{body['kind']}/{body['metadata']['name']}"


def _target(body: JsonObject, begun: str | None) -> Target:
    resource: TargetResource = parse(body)
    kind, name = resource.owner.kind, resource.name
    if resource.spec is None:
        return Target(kind, name, None, False, f"{kind} {name}: {resource.problem}")
    if resource.deleting and _label(body) != begun:
        why_not = f"{kind} {name} is being deleted: name another target, or make it again"
        return Target(kind, name, resource.spec, False, why_not)
    why_not = f"{kind} {name} is not Ready; {resource.why_not_ready}"
    return Target(kind, name, resource.spec, resource.is_ready, why_not)


class _Known(NamedTuple):
    """An object, and which version of its spec."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    created: str


class _Once:
    """A spec that is hashed by the version of its object, not by its content."""

    def __init__(self, version: _Known, spec: JsonObject) -> None:
        self.version = version
        self.spec = spec

    def __hash__(self) -> int:
        return hash(self.version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Once) and self.version == other.version


@lru_cache(maxsize=4096)
def _lasting(given: _Once) -> tuple[Owner, datetime, Value | None, str]:
    """What stays until the next generation: who it is, its spec, and what is wrong with that."""
    known = given.version
    created = parse_time(known.created)
    if created is None:
        raise ValueError("an object from the API server has a creationTimestamp")
    owner = Owner(API_VERSION, known.kind, known.namespace, known.name, known.uid)
    return owner, created, *_spec(BY_KIND[known.kind].spec, given.spec)


def _spec(model: type[Value], given: JsonObject) -> tuple[Value | None, str]:
    if NESTED in given:
        return None, f"spec: its values nest more than {MAX_DEPTH} levels deep; write it flatter"
    try:
        return model.model_validate(given, extra="ignore"), ""
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in ("spec", *first["loc"]))
        return None, f"{path}: {first['msg']}"
