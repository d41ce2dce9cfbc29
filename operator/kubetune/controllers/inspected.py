"""The kinds that are looked into by a run of their own: Dataset, Model, PromptTemplate."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.controllers.base import Forgetful
from kubetune.decide.decision import DatasetDecision, ModelDecision, PromptTemplateDecision
from kubetune.decide.inspected import dataset, model, prompt_template
from kubetune.decide.resources import DatasetResource, ModelResource, PromptTemplateResource
from kubetune.observe.inspected import InspectedObserver

Inspected = TypeVar(
    "Inspected",
    dataset.ObservedDataset,
    model.ObservedModel,
    prompt_template.ObservedPromptTemplate,
)


class InspectedController(Forgetful[Inspected]):
    """What the inspected kinds have in common."""

    def __init__(self, observer: InspectedObserver) -> None:
        self._observer = observer

    def place(self, observed: Inspected) -> ComputeTargetSpec | None:
        """Where its inspection runs."""
        return observed.facts.place


class DatasetController(InspectedController[dataset.ObservedDataset]):
    """Dataset: rows are found, counted and checked."""

    kinds = frozenset({"Dataset"})

    async def observe(self, resource: DatasetResource, kept: None) -> dataset.ObservedDataset:
        """A Dataset and what it names."""
        return await self._observer.dataset(resource)

    def decide(self, observed: dataset.ObservedDataset, now: datetime) -> DatasetDecision:
        """See kubetune.decide.inspected.dataset."""
        return dataset.decide(observed, now)


class ModelController(InspectedController[model.ObservedModel]):
    """Model: weights are found, measured and checked."""

    kinds = frozenset({"Model"})

    async def observe(self, resource: ModelResource, kept: None) -> model.ObservedModel:
        """A Model and what it names."""
        return await self._observer.model(resource)

    def decide(self, observed: model.ObservedModel, now: datetime) -> ModelDecision:
        """See kubetune.decide.inspected.model."""
        return model.decide(observed, now)


class PromptTemplateController(InspectedController[prompt_template.ObservedPromptTemplate]):
    """PromptTemplate: a row is rendered with it when a sample is asked for."""

    kinds = frozenset({"PromptTemplate"})

    async def observe(
        self, resource: PromptTemplateResource, kept: None
    ) -> prompt_template.ObservedPromptTemplate:
        """A PromptTemplate and its Dataset."""
        return await self._observer.prompt_template(resource)

    def decide(
        self, observed: prompt_template.ObservedPromptTemplate, now: datetime
    ) -> PromptTemplateDecision:
        """See kubetune.decide.inspected.prompt_template."""
        return prompt_template.decide(observed, now)
