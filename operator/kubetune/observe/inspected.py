"""Observations of Dataset, Model and PromptTemplate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from kubetune.api.conditions import InspectionResult
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import (
    DatasetStatusDict,
    ModelStatusDict,
    PromptTemplateStatusDict,
    status_of,
)
from kubetune.api.run.plan import InspectionPlan
from kubetune.decide.consent import of_mounts
from kubetune.decide.inspected import dataset, inspection, model, prompt_template
from kubetune.decide.inspected.shared import InspectionFacts
from kubetune.decide.resources import (
    DatasetResource,
    ModelResource,
    PromptTemplateResource,
    TargetProblem,
)
from kubetune.decide.sources import Mounts
from kubetune.decide.target.place import same_place
from kubetune.keys import Keyring
from kubetune.observe.cache import ObjectCache
from kubetune.observe.consent import Consents
from kubetune.observe.objects import (
    find,
    parse,
    recorded_place,
    recorded_target,
    resolve_target,
    source_job,
)
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError
from kubetune.targets.values import RunAddress

IN_THIS_CLUSTER = ComputeTargetSpec.model_construct()
"""Where runs are of a target that is gone, as far as they can be found."""
InspectedResource = DatasetResource | ModelResource | PromptTemplateResource
InspectedStatus = DatasetStatusDict | ModelStatusDict | PromptTemplateStatusDict
Observed = TypeVar(
    "Observed", dataset.ObservedDataset, model.ObservedModel, prompt_template.ObservedPromptTemplate
)


class InspectedObserver:
    """Builds what decide needs to know of the kinds that are inspected."""

    def __init__(
        self,
        cache: ObjectCache,
        consents: Consents,
        backend: Backends,
        keys: Keyring,
        install_id: str,
    ) -> None:
        self._cache = cache
        self._consents = consents
        self._backend = backend
        self._keys = keys
        self._install_id = install_id

    async def dataset(self, resource: DatasetResource) -> dataset.ObservedDataset:
        """A Dataset and what it names."""
        spec, namespace = resource.spec, resource.owner.namespace
        config_map = spec.source.config_map if spec else None
        tokenizer = spec.tokenizer_ref if spec else None
        observed = dataset.ObservedDataset(
            dataset=resource,
            facts=self._facts(resource),
            config_map_missing=config_map is not None
            and self._cache.get("ConfigMap", namespace, config_map.name) is None,
            tokenizer=find(self._cache, "Model", namespace, tokenizer.name if tokenizer else None),
        )
        return await self._with_runs(observed, resource, dataset.inspection_of)

    async def model(self, resource: ModelResource) -> model.ObservedModel:
        """A Model and what it names."""
        spec, namespace = resource.spec, resource.owner.namespace
        named = spec.base_model_ref.name if spec and spec.base_model_ref else None
        base = find(self._cache, "Model", namespace, named)
        job = spec.source.fine_tune_job.name if spec and spec.source.fine_tune_job else None
        observed = model.ObservedModel(
            model=resource,
            facts=self._facts(resource),
            base=base,
            job=find(self._cache, "FineTuneJob", namespace, job),
            base_job=source_job(self._cache, base),
        )
        if spec is None or (job and not model.output_uri(resource, observed.job)):
            return observed
        return await self._with_runs(observed, resource, model.inspection_of)

    async def prompt_template(
        self, resource: PromptTemplateResource
    ) -> prompt_template.ObservedPromptTemplate:
        """A PromptTemplate and its Dataset."""
        spec, namespace = resource.spec, resource.owner.namespace
        name = spec.dataset_ref.name if spec and spec.dataset_ref else None
        rows = find(self._cache, "Dataset", namespace, name)
        observed = prompt_template.ObservedPromptTemplate(
            template=resource, facts=self._facts(resource), dataset=rows
        )
        if spec is None or not spec.sample or rows is None or rows.spec is None:
            return observed
        return await self._with_runs(observed, resource, prompt_template.inspection_of)

    def _facts(self, resource: InspectedResource) -> InspectionFacts:
        state = resource.status.get("inspection") or {}
        external = state.get("external") or {}
        namespace, label = resource.owner.namespace, external.get("target")
        named = getattr(resource.spec, "compute_target_ref", None)
        return InspectionFacts(
            install_id=self._install_id,
            keys=self._keys,
            target=resolve_target(self._cache, namespace, named, label),
            runs=(),
            started=recorded_place(self._cache, namespace, external),
        )

    async def _where_begun(
        self,
        observed: Observed,
        resource: InspectedResource,
        inspection_of: Callable[[Observed], tuple[InspectionPlan, Mounts]],
    ) -> Observed:
        """The same with the target on which an inspection runs, whichever is the default now.

        One that only waits, for a node or for its next try, goes to the present default.
        """
        state = resource.status.get("inspection") or {}
        label = (state.get("external") or {}).get("target")
        recorded = recorded_target(label)
        named = getattr(resource.spec, "compute_target_ref", None)
        if recorded is None or named or label == observed.facts.target.label:
            return observed
        target = resolve_target(self._cache, resource.owner.namespace, recorded, label)
        there = replace(observed, facts=replace(observed.facts, target=target))
        key = inspection.inspection_key(*inspection_of(there), target.label)
        if state.get("key") != key:
            return observed
        run_key = inspection.inspection_run_key(self._keys, resource.owner, key)
        facts = await self._observe(there.facts, resource, run_key)
        news = [run for run in facts.runs if run.attempt > state.get("attempts", 0)]
        if facts.target_problem or any(run.phase != "pending" for run in news):
            return there
        place = target.spec or IN_THIS_CLUSTER
        now = observed.facts.target.spec
        if news or (facts.runs and now and not same_place(place, now)):
            return replace(observed, facts=replace(observed.facts, left=place))
        return observed

    async def _with_runs(
        self,
        observed: Observed,
        resource: InspectedResource,
        inspection_of: Callable[[Observed], tuple[InspectionPlan, Mounts]],
    ) -> Observed:
        """Add the runs of the inspection that the spec asks for, a twin, and missing Secrets."""
        if resource.spec is None:
            return observed
        observed = await self._where_begun(observed, resource, inspection_of)
        plan, mounts = inspection_of(observed)
        key = inspection.inspection_key(plan, mounts, observed.facts.target.label)
        run_key = inspection.inspection_run_key(self._keys, resource.owner, key)
        facts = await self._observe(observed.facts, resource, run_key)
        runs = facts.runs
        if not inspection.settled(resource.status.get("inspection") or {}, key) and not runs:
            target, namespace = facts.target.spec, resource.owner.namespace
            wanted = of_mounts(target, mounts)
            lacking = await self._consents.lacking(namespace, wanted, target)
            facts = replace(facts, twin=self._twin(resource, key), lacking=lacking)
        return replace(observed, facts=facts)

    async def _observe(
        self, facts: InspectionFacts, resource: InspectedResource, run_key: str
    ) -> InspectionFacts:
        address = RunAddress(resource.owner, run_key, facts.place)
        try:
            return replace(facts, runs=await self._backend.observe(address))
        except BackendError as error:
            return replace(facts, target_problem=TargetProblem(error.reason, str(error)))

    def _twin(self, resource: InspectedResource, key: str) -> InspectedStatus | None:
        owner = resource.owner
        for body in self._cache.of_kind(owner.kind, owner.namespace):
            status: InspectedStatus = status_of(body)
            state = status.get("inspection") or {}
            if (
                state.get("key") == key
                and state.get("result") == InspectionResult.FOUND
                and body["metadata"]["uid"] != owner.uid
                and parse(body).is_ready
            ):
                return status
        return None
