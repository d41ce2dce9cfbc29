"""Which objects an object names: a change of those is a reason to look at it again."""

from __future__ import annotations

from typing import Any

from kubetune.queue import Key

JsonObject = dict[str, Any]

TARGET_KINDS = ("ComputeTarget", "ClusterComputeTarget")
DEFAULT_TARGETS = "*"
"""Stands for all targets: whoever names none depends on which of them is the default."""


def references(key: Key, body: JsonObject) -> frozenset[Key]:
    """Keys of the objects that ``body`` names, existing or not."""
    try:
        return _references(key, body.get("spec") or {})
    except (AttributeError, KeyError, TypeError):
        # Accepted by another version of the CRD: it names nobody that we could read.
        return frozenset()


def _references(key: Key, spec: JsonObject) -> frozenset[Key]:
    namespace = key.namespace
    found: set[Key] = set()
    if key.kind in ("FineTuneJob", "Evaluation", "Dataset", "Model", "PromptTemplate"):
        found.add(_target(namespace, spec.get("computeTargetRef")))
    match key.kind:
        case "FineTuneJob":
            found |= _named(namespace, spec, "Model", "modelRef")
            found |= _named(namespace, spec, "Dataset", "datasetRef")
            found |= _named(namespace, spec, "PromptTemplate", "promptRef")
            if profile := spec.get("profileRef"):
                kind = profile.get("kind", "TuningProfile")
                scope = "" if kind == "ClusterTuningProfile" else namespace
                found.add(Key(kind, scope, profile["name"]))
            found |= _trainer(namespace, spec)
            if model_name := (spec.get("output") or {}).get("modelName"):
                found.add(Key("Model", namespace, model_name))
        case "Evaluation":
            found |= _named(namespace, spec, "Dataset", "datasetRef")
            found |= _named(namespace, spec, "PromptTemplate", "promptRef")
            for candidate in spec["candidates"]:
                found |= _named(namespace, candidate, "Model", "modelRef")
            for own in (*(spec.get("functions") or ()), *(spec.get("tasks") or ())):
                found |= _named(namespace, own, "ConfigMap", "configMapRef")
        case "Dataset":
            found |= _named(namespace, spec, "Model", "tokenizerRef")
            found |= _named(namespace, spec.get("source") or {}, "ConfigMap", "configMap")
        case "Model":
            found |= _named(namespace, spec, "Model", "baseModelRef")
            found |= _named(namespace, spec.get("source") or {}, "FineTuneJob", "fineTuneJob")
        case "TuningProfile":
            found |= _trainer(namespace, spec)
        case "PromptTemplate":
            found |= _named(namespace, spec, "Dataset", "datasetRef")
        case _:
            pass
    return frozenset(found)


def _trainer(namespace: str, spec: JsonObject) -> set[Key]:
    trainer = spec.get("trainer") or {}
    named = (trainer.get(which) or {} for which in ("script", "axolotl"))
    return {key for own in named for key in _named(namespace, own, "ConfigMap", "configMapRef")}


def _named(namespace: str, spec: JsonObject, kind: str, field: str) -> set[Key]:
    reference = spec.get(field)
    return {Key(kind, namespace, reference["name"])} if reference else set()


def _target(namespace: str, reference: JsonObject | None) -> Key:
    if not reference:
        return Key("ComputeTarget", "", DEFAULT_TARGETS)
    kind = reference.get("kind", "ComputeTarget")
    return Key(kind, "" if kind == "ClusterComputeTarget" else namespace, reference["name"])
