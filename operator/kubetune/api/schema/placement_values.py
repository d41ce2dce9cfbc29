"""The core/v1 shapes by which an admin says near what pods run, with Kubernetes' own names."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import Value
from kubetune.api.schema.kubernetes_values import DnsLabel, LabelKey, Labels, LabelValue
from kubetune.api.schema.rules import Rule

LabelValues = Annotated[list[LabelValue], Field(min_length=1, max_length=32)]
Weight = Annotated[int, Field(ge=1, le=100)]
Keys = Annotated[list[LabelKey], Field(min_length=1, max_length=8)]

_BOUNDS = ("Gt", "Lt")
_BARE = ("Exists", "DoesNotExist")


def _needs_values(requirement: Any) -> bool:
    return (requirement.values is not None) == (requirement.operator not in _BARE)


VALUES_FIT = Rule(
    cel=f"has(self.values) == !(self.operator in {list(_BARE)})",
    message="operators Exists and DoesNotExist go without values, the others need some",
    check=_needs_values,
    field="values",
)


def _one_number(requirement: Any) -> bool:
    values: list[str] = requirement.values or []
    if requirement.operator not in _BOUNDS or not values:
        return True
    return len(values) == 1 and values[0].isascii() and values[0].isdigit() and len(values[0]) < 19


class NodeSelectorRequirement(Value):
    """What a node's label must be."""

    rules: ClassVar[tuple[Rule, ...]] = (
        VALUES_FIT,
        Rule(
            cel=f"!(self.operator in {list(_BOUNDS)}) || !has(self.values) ||"
            " (size(self.values) == 1 && self.values[0].matches('^[0-9]{1,18}$'))",
            message="operators Gt and Lt compare with one whole number",
            check=_one_number,
            field="values",
        ),
    )

    key: LabelKey = Field(description="Key of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="In and NotIn compare with all values, Gt and Lt with one whole number, Exists"
        " and DoesNotExist with none."
    )
    values: LabelValues | None = Field(default=None, description="Values, as operator needs them.")


class LabelSelectorRequirement(Value):
    """What a pod's or namespace's label must be."""

    rules: ClassVar[tuple[Rule, ...]] = (VALUES_FIT,)

    key: LabelKey = Field(description="Key of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="In and NotIn compare with all values, Exists and DoesNotExist with none."
    )
    values: LabelValues | None = Field(default=None, description="Values, as operator needs them.")


class LabelSelector(Value):
    """Which pods or namespaces are meant; an empty one means all."""

    match_labels: Labels | None = Field(default=None, description="Labels with their values.")
    match_expressions: list[LabelSelectorRequirement] | None = Field(
        default=None, max_length=16, description="Further conditions; all of them must hold."
    )

    def names(self, key: str) -> bool:
        """Whether it says something of a label."""
        found = (item.key == key for item in self.match_expressions or ())
        return key in (self.match_labels or {}) or any(found)


class NodeSelectorTerm(Value):
    """Conditions on one node; all of them must hold."""

    match_expressions: list[NodeSelectorRequirement] = Field(
        min_length=1, max_length=16, description="Conditions on the node's labels."
    )


class NodeSelector(Value):
    """Which nodes fit."""

    node_selector_terms: list[NodeSelectorTerm] = Field(
        min_length=1, max_length=8, description="Alternatives; one of them must hold."
    )


class PreferredNode(Value):
    """Nodes that are better than others."""

    weight: Weight = Field(description="How much better, 1 to 100.")
    preference: NodeSelectorTerm = Field(description="Conditions on the node.")


class NodeAffinity(Value):
    """Which nodes pods may run on, and which they rather do."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None, description="Nodes that fit; pods wait for one."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredNode] | None = Field(
        default=None, max_length=16, description="Nodes that are preferred."
    )


def _not_twice(constraint: Any) -> bool:
    return not any(
        constraint.label_selector.names(key) for key in constraint.match_label_keys or ()
    )


NOT_TWICE = Rule(
    cel="!has(self.matchLabelKeys) || self.matchLabelKeys.all(label,"
    " !(has(self.labelSelector.matchLabels) && label in self.labelSelector.matchLabels) &&"
    " !(has(self.labelSelector.matchExpressions) &&"
    " self.labelSelector.matchExpressions.exists(item, item.key == label)))",
    message="a label of matchLabelKeys has the pod's own value: take it out of labelSelector",
    check=_not_twice,
    field="matchLabelKeys",
)


class PodAffinityTerm(Value):
    """Other pods, and what a place is that they share."""

    rules: ClassVar[tuple[Rule, ...]] = (NOT_TWICE,)

    topology_key: LabelKey = Field(
        description="Nodes with the same value of this label are one place, such as"
        " kubernetes.io/hostname."
    )
    label_selector: LabelSelector = Field(description="Which pods.")
    match_label_keys: Keys | None = Field(
        default=None,
        description="Only pods that have the same values of these labels as the pod itself, such as"
        " kubetune.io/run-key: those of its own run. Kubernetes 1.31 or newer.",
    )
    namespaces: list[DnsLabel] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Namespaces of the pods. Default: the pod's own.",
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of the pods by their labels; empty: all."
    )


class PreferredPods(Value):
    """A place that is better than others."""

    weight: Weight = Field(description="How much better, 1 to 100.")
    pod_affinity_term: PodAffinityTerm = Field(description="The pods there.")


class PodAffinity(Value):
    """Near which pods, or far from which, pods run."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = Field(
        default=None, max_length=8, description="What must hold; pods wait for such a place."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] | None = Field(
        default=None, max_length=8, description="What is preferred."
    )


class Affinity(Value):
    """Kubernetes' affinity of a pod."""

    node_affinity: NodeAffinity | None = Field(default=None, description="Nodes by their labels.")
    pod_affinity: PodAffinity | None = Field(default=None, description="Near which pods.")
    pod_anti_affinity: PodAffinity | None = Field(default=None, description="Far from which pods.")


class TopologySpreadConstraint(Value):
    """How evenly pods are spread over places."""

    rules: ClassVar[tuple[Rule, ...]] = (
        NOT_TWICE,
        Rule(
            cel="!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
            message="minDomains is for whenUnsatisfiable DoNotSchedule alone",
            check=lambda given: (
                given.min_domains is None or given.when_unsatisfiable == "DoNotSchedule"
            ),
            field="minDomains",
        ),
    )

    max_skew: int = Field(
        ge=1, le=2**31 - 1, description="How many more pods one place may have than another."
    )
    topology_key: LabelKey = Field(
        description="Nodes with the same value of this label are one place, such as"
        " topology.kubernetes.io/zone."
    )
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="DoNotSchedule: pods wait. ScheduleAnyway: it is preferred."
    )
    label_selector: LabelSelector = Field(
        description="Which pods of the namespace count, such as those with"
        " app.kubernetes.io/managed-by=kubetune."
    )
    match_label_keys: Keys | None = Field(
        default=None,
        description="Only pods that have the same values of these labels as the pod itself, such as"
        " kubetune.io/run-key: those of its own run.",
    )
    min_domains: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="How many places there must be. Default 1."
    )
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None,
        description="Whether nodes count that nodeSelector and affinity rule out. Default Honor:"
        " they don't.",
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None,
        description="Whether nodes count whose taints the pod doesn't tolerate. Default Ignore:"
        " they do.",
    )
