"""Which objects an object names: a change of those is a reason to look at it again."""

from __future__ import annotations

from collections.abc import Iterator

from kubetune.api import JsonObject
from kubetune.api.kinds.table import BY_KIND
from kubetune.queue import Key

TARGET_KINDS = ("ComputeTarget", "ClusterComputeTarget")
DEFAULT_TARGETS = "*"
"""Stands for all targets: whoever names none depends on which of them is the default."""


def references(key: Key, body: JsonObject) -> frozenset[Key]:
    """Keys of the objects that ``body`` names, existing or not."""
    try:
        return frozenset(_references(key, body.get("spec") or {}))
    except (AttributeError, KeyError, TypeError):
        # Accepted by another version of the CRD: it names nobody that we could read.
        return frozenset()


def _references(key: Key, spec: JsonObject) -> Iterator[Key]:
    declared = BY_KIND.get(key.kind)
    for reference in declared.spec.references if declared else ():
        named = False
        for kind, name in reference.named_in(spec):
            named = True
            namespaced = kind not in BY_KIND or BY_KIND[kind].namespaced
            # What a cluster-wide object names is in the namespace of who uses it.
            if key.namespace or not namespaced:
                yield Key(kind, key.namespace if namespaced else "", name)
        if reference.or_default and not named:
            yield Key(reference.kind, "", DEFAULT_TARGETS)
