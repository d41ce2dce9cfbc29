"""What an object can't reach its runs without, by the record in its status."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.conditions import AT_REST
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import AnyStatusDict, RecordedTargetDict
from kubetune.api.kinds.table import INSPECTED
from kubetune.decide.consent import of_target
from kubetune.decide.target.place import place_of
from kubetune.names import FINALIZER
from kubetune.observe.cache import ObjectCache
from kubetune.observe.objects import recorded_target, resolve_target
from kubetune.queue import Key
from kubetune.targets.table import facts_of, recorded_facts


def external_of(kind: str, status: AnyStatusDict) -> RecordedTargetDict:
    """The record of where runs were started."""
    holder = status.get("inspection") or {} if kind in INSPECTED else status
    return holder.get("external") or {}


def may_run(body: JsonObject, status: AnyStatusDict) -> bool:
    """Whether runs may be under way with this status that need access to be reached."""
    if not recorded_facts(external_of(body["kind"], status)).needs_access:
        return False
    if FINALIZER not in (body["metadata"].get("finalizers") or ()):
        # Nothing is started without it.
        return False
    return body["kind"] in INSPECTED or status.get("phase") not in AT_REST


def needs_of(cache: ObjectCache, body: JsonObject, status: AnyStatusDict) -> frozenset[Key]:
    """Target, Secrets and certificates without which its runs can't be reached."""
    namespace = body["metadata"]["namespace"]
    external = external_of(body["kind"], status)
    reference = recorded_target(external.get("target"))
    if reference is None or not recorded_facts(external).needs_access:
        return frozenset()
    scope = "" if reference.kind == "ClusterComputeTarget" else namespace
    found = {Key(reference.kind, scope, reference.name)}
    # As recorded, and as the target has it now.
    for place in (
        place_of(external, None),
        resolve_target(cache, namespace, reference).spec,
    ):
        if place is not None and facts_of(place).needs_access:
            found |= named_by(place, namespace)
    return frozenset(found)


def named_by(target: ComputeTargetSpec, namespace: str) -> set[Key]:
    """Secrets and certificates that a target names, in the namespace of who uses it."""
    secrets = [wanted.name for wanted in of_target(target)]
    bundles = [*(target.block.access_bundles if target.block else ())]
    if target.tracking.ca_bundle:
        bundles.append(target.tracking.ca_bundle)
    return {Key("Secret", namespace, name) for name in secrets} | {
        Key("ConfigMap", namespace, bundle.config_map_name) for bundle in bundles
    }
