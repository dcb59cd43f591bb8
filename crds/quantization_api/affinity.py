"""Affinity of a pod, as core/v1 has it: typed and bounded, so that nothing deep or large is stored and passed on.

Which combinations are valid Kubernetes knows; it refuses the Job, and the job says so.
"""

from typing import Annotated, Literal

from pydantic import Field

from quantization_api.bounded import LabelKey, Labels, LabelValue
from quantization_api.rules import KubernetesModel

Values = Annotated[
    list[LabelValue],
    Field(max_length=64, description="Values to compare with; none for Exists and DoesNotExist."),
]
Keys = Annotated[
    list[LabelKey],
    Field(max_length=16, description="Labels of this pod whose values are added to the selector."),
]
Namespaces = Annotated[
    list[LabelValue], Field(max_length=16, description="Namespaces of the pods; if empty, that of this pod.")
]
PodLabels = Annotated[Labels, Field(description="Labels and their values.")]
TopologyKey = Annotated[LabelKey, Field(description="Label of nodes; nodes of one value are one place.")]
Weight = Annotated[
    int, Field(ge=1, le=100, description="From 1 to 100; the highest sum of the terms that match wins.")
]


class NodeSelectorRequirement(KubernetesModel):
    """A condition on a label, or a field, of a node."""

    key: LabelKey = Field(description="The label, or the field.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="How its value is compared."
    )
    values: Values = Field(default_factory=list)


NodeSelectorRequirements = Annotated[
    list[NodeSelectorRequirement], Field(max_length=16, description="Conditions that must all hold.")
]


class NodeSelectorTerm(KubernetesModel):
    """Conditions that a node must all meet."""

    match_expressions: NodeSelectorRequirements = Field(default_factory=list)
    match_fields: NodeSelectorRequirements = Field(default_factory=list)


class NodeSelector(KubernetesModel):
    """Terms of which a node must meet at least one."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(max_length=8)] = Field(
        description="Terms of which one must be met."
    )


class PreferredNodes(KubernetesModel):
    """Nodes that are preferred."""

    weight: Weight
    preference: NodeSelectorTerm


class NodeAffinity(KubernetesModel):
    """Which nodes the pod may run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredNodes], Field(max_length=8)
    ] = Field(default_factory=list, description="Nodes that are preferred.")


class LabelSelectorRequirement(KubernetesModel):
    """A condition on a label."""

    key: LabelKey = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How its value is compared."
    )
    values: Values = Field(default_factory=list)


class LabelSelector(KubernetesModel):
    """Conditions on labels that must all hold; an empty selector matches everything."""

    match_labels: PodLabels = Field(default_factory=dict)
    match_expressions: Annotated[list[LabelSelectorRequirement], Field(max_length=16)] = Field(
        default_factory=list, description="Conditions that must all hold."
    )


class PodAffinityTerm(KubernetesModel):
    """Which pods, and the node label that defines the same place."""

    topology_key: TopologyKey
    label_selector: LabelSelector | None = None
    namespaces: Namespaces = Field(default_factory=list)
    namespace_selector: LabelSelector | None = None
    match_label_keys: Keys = Field(default_factory=list)
    mismatch_label_keys: Keys = Field(default_factory=list)


class WeightedPodAffinityTerm(KubernetesModel):
    """Pods that this pod prefers to run next to, or away from."""

    weight: Weight
    pod_affinity_term: PodAffinityTerm


class PodAffinity(KubernetesModel):
    """Which pods this pod runs next to, or away from."""

    required_during_scheduling_ignored_during_execution: Annotated[
        list[PodAffinityTerm], Field(max_length=8)
    ] = Field(default_factory=list, description="Terms that must all be met.")
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[WeightedPodAffinityTerm], Field(max_length=8)
    ] = Field(default_factory=list, description="Terms that are preferred.")


class Affinity(KubernetesModel):
    """Affinity of the pod (core/v1)."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None
