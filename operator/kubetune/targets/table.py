"""The table of types of targets: their facts, by the name of their block in a ComputeTarget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.targets.cml.facts import CML
from kubetune.targets.facts import TargetFacts
from kubetune.targets.kubernetes.facts import KUBERNETES

FACTS: dict[str, TargetFacts] = {
    "kubernetes": KUBERNETES,
    "cml": CML,
}


def facts_of(target: ComputeTargetSpec | None) -> TargetFacts:
    """The facts of a target; without one only runs in the cluster can be found."""
    return KUBERNETES if target is None else FACTS[target.type]


def recorded_facts(external: Mapping[str, Any]) -> TargetFacts:
    """The facts of the target in a status.external; those of the cluster when there is none."""
    return FACTS.get(external.get("type", ""), KUBERNETES)
