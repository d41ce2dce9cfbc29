"""Which labels of a node a job may choose: the admin of its target says."""

from __future__ import annotations

from collections.abc import Sequence

from kubetune.api.kinds.compute_target.block import TargetBlock
from kubetune.api.training.settings import Resources
from kubetune.decide.resources import Target


def gpu_label_problem(target: Target, given: Sequence[tuple[str, Resources | None]]) -> str:
    """A sentence about the first label in ``resources.gpuLabel`` that isn't allowed.

    ``given`` are layers and what a sentence calls them, the one that counts first.
    """
    spec = target.spec
    block = spec.block if spec else None
    if spec is None or block is None:
        return ""
    default = (spec.resources and spec.resources.gpu_label) or {}
    seen: set[str] = set()
    for whose, resources in given:
        for key, value in ((resources and resources.gpu_label) or {}).items():
            if key in seen:
                continue
            seen.add(key)
            if why := _refusal(block, f"spec.{spec.type}", default, key, value):
                return (
                    f"{whose}.resources.gpuLabel {key}: {value} is refused, as {target.label}{why}"
                )
    return ""


def _refusal(block: TargetBlock, field: str, default: dict[str, str], key: str, value: str) -> str:
    fixed = block.fixed_labels.get(key)
    if fixed is not None:
        other = f" sets {key}: {fixed} in its {field}.nodeSelector: leave it out"
        return "" if fixed == value else other
    allowed = block.allowed_labels
    if allowed is None or default.get(key) == value:
        return ""
    if any(label.allows(key, value) for label in allowed):
        return ""
    listed = "; ".join(
        f"{label.key}: {' or '.join(label.values) if label.values else 'any value'}"
        for label in allowed
    )
    if not listed:
        return f" lists no labels in its {field}.gpuLabels: leave it out, or have its admin list it"
    advice = "take one of these, or have its admin list yours"
    return f" allows {listed} in its {field}.gpuLabels: {advice}"
