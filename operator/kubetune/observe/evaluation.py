"""Observation of an Evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kubetune.api.conditions import TERMINAL_PHASES
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.evaluation.spec import Candidate, EvaluationSpec
from kubetune.api.kinds.status_types import EvaluationStatusDict, status_of
from kubetune.clients.config_maps import config_map_value
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.decide.consent import of_judges, of_sources, of_target
from kubetune.decide.evaluation.candidate import MOVING, SETTLED
from kubetune.decide.evaluation.inputs import candidate_run_key
from kubetune.decide.evaluation.judges import judge_keys
from kubetune.decide.evaluation.observed import (
    EvaluationAnswers,
    ObservedCandidate,
    ObservedEvaluation,
)
from kubetune.decide.resources import EvaluationResource, ModelResource, TargetProblem
from kubetune.keys import Keyring
from kubetune.names import JOB
from kubetune.observe.cache import ObjectCache
from kubetune.observe.consent import Consents
from kubetune.observe.fine_tune_job import running_names
from kubetune.observe.objects import (
    default_instead,
    find,
    recorded_place,
    recorded_target,
    resolve_target,
    source_job,
)
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError
from kubetune.targets.values import RunAddress
from kubetune.tracking.base import TrackedRun


def _all(
    evaluation: EvaluationResource, spec: EvaluationSpec, keys: Keyring
) -> list[ObservedCandidate]:
    """The candidates with their run keys, and nothing of their runs."""
    known = {item["name"]: item for item in evaluation.status.get("candidates") or ()}
    found: list[ObservedCandidate] = []
    for candidate in spec.candidates:
        digest = known[candidate.name].get("digest") if candidate.name in known else None
        uid, run_key = evaluation.owner.uid, ""
        if digest:
            run_key = candidate_run_key(keys, uid, candidate.name, digest)
        found.append(ObservedCandidate(candidate.name, candidate.model_ref.name, run_key=run_key))
    return found


def _has_begun(status: EvaluationStatusDict) -> bool:
    """Whether anything was started; where it was refused, another target may be the default."""
    return any("attempt" in candidate for candidate in status.get("candidates") or ())


class EvaluationObserver:
    """Builds what decide needs to know of an Evaluation."""

    def __init__(
        self,
        cache: ObjectCache,
        client: KubernetesClient,
        consents: Consents,
        backend: Backends,
        keys: Keyring,
        install_id: str,
        progress_seconds: float,
        retry_seconds: float,
        tracked: Callable[[str], TrackedRun | None],
    ) -> None:
        self._cache = cache
        self._client = client
        self._consents = consents
        self._backend = backend
        self._keys = keys
        self._install_id = install_id
        self._progress_seconds = progress_seconds
        self._retry_seconds = retry_seconds
        self._tracked = tracked

    async def observe(
        self, evaluation: EvaluationResource, answers: EvaluationAnswers
    ) -> ObservedEvaluation:
        """An Evaluation and everything around it."""
        spec, namespace = evaluation.spec, evaluation.owner.namespace
        label = evaluation.status.get("target")
        reference = recorded_target(label) if _has_begun(evaluation.status) else None
        reference = reference or (spec.compute_target_ref if spec else None)
        target = resolve_target(self._cache, namespace, reference, label)
        external = evaluation.status.get("external") or {}
        started = recorded_place(self._cache, namespace, external)
        place = started or target.spec
        observed = ObservedEvaluation(
            evaluation,
            self._install_id,
            self._keys,
            target,
            started=started,
            progress_seconds=self._progress_seconds,
            retry_seconds=self._retry_seconds,
            answers=answers,
            lets_runs_go=self._cache.lets_dependents_go(evaluation.owner.uid),
        )
        if spec is None:
            return observed
        known = {item["name"]: item for item in evaluation.status.get("candidates") or ()}
        candidates = _all(evaluation, spec, self._keys)
        try:
            for at, item in enumerate(candidates):
                if item.run_key:
                    newest = known[item.name].get("attempt") if item.name in known else None
                    running = running_names([newest] if newest else None)
                    address = RunAddress(
                        evaluation.owner,
                        item.run_key,
                        place,
                        running=running,
                        kept=observed.lets_runs_go,
                    )
                    # Also of those that have ended: the backend must know what to tidy up.
                    runs = await self._backend.observe(address)
                    tracked = self._tracked(item.run_key)
                    candidates[at] = replace(item, runs=runs, tracked=tracked)
        except BackendError as error:
            problem = TargetProblem(error.reason, str(error))
            return replace(observed, candidates=candidates, target_problem=problem)
        if evaluation.status.get("phase") in TERMINAL_PHASES or evaluation.deleting:
            return replace(observed, candidates=candidates)
        runs = [run for item in candidates for run in item.runs]
        target = default_instead(self._cache, namespace, target, spec.compute_target_ref, runs)
        observed = replace(observed, target=target)
        settled = {name for name, item in known.items() if item["phase"] in SETTLED}
        waiting = [item.name not in settled for item in candidates]
        detailed = [
            await self._detailed(item, given, namespace, target.spec) if needed else item
            for item, given, needed in zip(candidates, spec.candidates, waiting, strict=True)
        ]
        dataset = find(self._cache, "Dataset", namespace, spec.dataset_ref.name)
        return replace(
            observed,
            candidates=detailed,
            dataset=dataset,
            prompt=find(
                self._cache,
                "PromptTemplate",
                namespace,
                spec.prompt_ref.name if spec.prompt_ref else None,
            ),
            lacking=await self._consents.lacking(
                namespace,
                of_target(target.spec)
                + of_sources(target.spec, dataset)
                + of_judges(target.spec, judge_keys(spec).values()),
                target.spec,
            ),
            functions=await self._functions(spec, namespace),
            task_files=await self._task_files(spec, namespace),
            elsewhere=self._elsewhere(evaluation),
        )

    async def _detailed(
        self,
        item: ObservedCandidate,
        given: Candidate,
        namespace: str,
        target: ComputeTargetSpec | None,
    ) -> ObservedCandidate:
        """The candidate with its Model and what that depends on."""
        named = given.model_ref.name
        model: ModelResource | None = find(self._cache, "Model", namespace, named)
        if model is None or model.spec is None:
            return replace(item, model=model)
        base_ref, job_ref = model.spec.base_model_ref, model.spec.source.fine_tune_job
        base = find(self._cache, "Model", namespace, base_ref.name if base_ref else None)
        job = job_ref.name if job_ref else model.status.get("madeBy") or model.annotations.get(JOB)
        return replace(
            item,
            model=model,
            base=base,
            base_job=source_job(self._cache, base),
            job=find(self._cache, "FineTuneJob", namespace, job),
            lacking=await self._consents.lacking(
                namespace, of_sources(target, model, base), target
            ),
        )

    async def _functions(self, spec: EvaluationSpec, namespace: str) -> dict[str, str]:
        """The code of metric functions by name, of those that are there."""
        found: dict[str, str] = {}
        for function in spec.functions or ():
            source = function.config_map_ref
            try:
                found[function.name] = await config_map_value(
                    self._client, namespace, source.name, source.key
                )
            except (NotFoundError, ValueError):
                continue
        return found

    async def _task_files(
        self, spec: EvaluationSpec, namespace: str
    ) -> dict[str, Mapping[str, str]]:
        """The files of own tasks by the name of their ConfigMap, of those that are there."""
        found: dict[str, Mapping[str, str]] = {}
        for name in {task.config_map_ref.name for task in spec.tasks or () if task.config_map_ref}:
            try:
                config_map = await self._client.get("ConfigMap", namespace, name)
            except NotFoundError:
                continue
            found[name] = config_map.get("data") or {}
        return found

    def _elsewhere(self, evaluation: EvaluationResource) -> dict[str, str]:
        """Digests that other Evaluations of the namespace measure now."""
        owner = evaluation.owner
        found: dict[str, str] = {}
        for body in self._cache.of_kind(owner.kind, owner.namespace):
            status: EvaluationStatusDict = status_of(body)
            if body["metadata"]["uid"] == owner.uid:
                continue
            for candidate in status.get("candidates") or ():
                if "digest" in candidate and candidate["phase"] in MOVING:
                    found[candidate["digest"]] = f"Evaluation {body['metadata']['name']}"
        return found
