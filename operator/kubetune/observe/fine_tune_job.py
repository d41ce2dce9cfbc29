"""Observation of a FineTuneJob."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kubetune.api.conditions import AttemptResult, Phase
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.status_types import AttemptDict
from kubetune.clients.config_maps import config_map_value
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.decide.consent import of_sources, of_target
from kubetune.decide.fine_tune_job.observed import ObservedJob, TrackerAnswers
from kubetune.decide.resources import (
    FineTuneJobResource,
    ProfileResource,
    Target,
    TargetProblem,
)
from kubetune.decide.settings.own_code import other_trainer
from kubetune.keys import Keyring
from kubetune.names import FINALIZER, RUN_KEY
from kubetune.observe.cache import ObjectCache
from kubetune.observe.consent import Consents
from kubetune.observe.objects import (
    default_instead,
    find,
    made_by,
    parse,
    recorded_place,
    recorded_target,
    resolve_target,
    source_job,
)
from kubetune.observe.run_keys import RunKeys
from kubetune.queue import Key
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError
from kubetune.targets.table import facts_of
from kubetune.targets.values import FINISHED, RunAddress, RunState
from kubetune.tracking.base import TrackedRun
from kubetune.tracking.trust import report_key


def running_names(attempts: Sequence[AttemptDict] | None) -> tuple[str, ...]:
    """The target's names of attempts that a status knows as running."""
    return tuple(item["job"] for item in attempts or () if item["result"] == AttemptResult.RUNNING)


class FineTuneJobObserver:
    """Builds what decide needs to know of a job."""

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
        began: datetime,
    ) -> None:
        self._cache = cache
        self._client = client
        self._consents = consents
        self._backend = backend
        self._install_id = install_id
        self._progress_seconds = progress_seconds
        self._retry_seconds = retry_seconds
        self._keys = keys
        self.run_keys = RunKeys(cache, keys, install_id)
        self._began = began
        """When this operator did: what it has made since it knows."""
        self._sought: set[str] = set()
        """Uids of older jobs for which a run key was sought where their target is."""

    async def observe(
        self,
        job: FineTuneJobResource,
        given: str | None,
        nonce: str,
        answers: TrackerAnswers,
        tracked: TrackedRun | None,
    ) -> ObservedJob:
        """A job and everything around it.

        ``given`` is its run key, as ``run_keys`` found it; ``nonce`` is for a new one, if it has
        none anywhere.
        """
        spec, namespace = job.spec, job.owner.namespace
        external = job.status.get("external") or {}
        reference = spec.compute_target_ref if spec else None
        if job.status.get("attempts"):
            reference = reference or recorded_target(external.get("target"))
        target = resolve_target(self._cache, namespace, reference, external.get("target"))
        started = recorded_place(self._cache, namespace, external)
        target_problem = None
        if given is None:
            target_problem = await self._seek_run_key(job, target)
            given = self.run_keys.of(job)
        run_key = given or self.run_keys.fresh(job, nonce)
        runs: list[RunState] = []
        if target_problem is None:
            runs, target_problem = await self._runs(job, given, started or target.spec)
        if target_problem is None:
            named = spec.compute_target_ref if spec else None
            target = default_instead(self._cache, namespace, target, named, runs)
        made: dict[str, str] = (job.status.get("result") or {}).get("modelRef") or {}
        common: dict[str, Any] = {
            "output": find(self._cache, "Model", namespace, made.get("name")),
            "job": job,
            "install_id": self._install_id,
            "run_key": run_key,
            "fresh": given is None,
            "lets_runs_go": self._cache.lets_dependents_go(job.owner.uid),
            "recorded": job.status.get("runKey") == run_key,
            "stamped": job.annotations.get(RUN_KEY) == run_key and FINALIZER in job.finalizers,
            "target": target,
            "started": started,
            "runs": runs,
            "target_problem": target_problem,
            "tracked": tracked,
            "answers": answers,
            "progress_seconds": self._progress_seconds,
            "retry_seconds": self._retry_seconds,
        }
        going = [run for run in runs if run.phase not in FINISHED and not run.lacks_plan]
        if spec is None or going:
            # A submitted run follows its frozen plan; nobody looks at the inputs.
            return ObservedJob(**common)
        model = find(self._cache, "Model", namespace, spec.model_ref.name)
        dataset = find(self._cache, "Dataset", namespace, spec.dataset_ref.name)
        base = None
        if spec.continue_from and model and model.spec and model.spec.base_model_ref:
            base = find(self._cache, "Model", namespace, model.spec.base_model_ref.name)
        named = spec.profile_ref
        profile: ProfileResource | None = (
            find(
                self._cache,
                named.kind,
                "" if named.kind == "ClusterTuningProfile" else namespace,
                named.name,
            )
            if named
            else None
        )
        return ObservedJob(
            report_key=report_key(self._keys, run_key),
            model=model,
            base=base,
            model_job=source_job(self._cache, model),
            base_job=source_job(self._cache, base),
            dataset=dataset,
            prompt=find(
                self._cache,
                "PromptTemplate",
                namespace,
                spec.prompt_ref.name if spec.prompt_ref else None,
            ),
            profile=profile,
            trainer_text=await self._trainer_text(namespace, spec, profile),
            lacking=await self._consents.lacking(
                namespace,
                of_target(target.spec) + of_sources(target.spec, model, base, dataset),
                target.spec,
            ),
            output_rival=self._output_rival(job),
            **common,
        )

    async def _trainer_text(
        self,
        namespace: str,
        spec: FineTuneJobSpec,
        profile: ProfileResource | None,
    ) -> str | None:
        """What the ConfigMap of the trainer has; None when it isn't there."""
        trainer = other_trainer(spec, profile.spec if profile else None)
        source = trainer.config_map_ref if trainer else None
        if source is None:
            return None
        try:
            return await config_map_value(self._client, namespace, source.name, source.key)
        except (NotFoundError, ValueError):
            return None

    async def _seek_run_key(self, job: FineTuneJobResource, target: Target) -> TargetProblem | None:
        """Look for runs of a job that says nothing of any, though it is older than this operator.

        A user may have wiped its status and replaced it while none ran. In the cluster its Jobs
        name it; elsewhere what the target has does. Why that can't be told, if so.
        """
        uid, spec = job.owner.uid, target.spec
        if job.created > self._began or uid in self._sought:
            return None
        if spec is None or not facts_of(spec).runs_outlive_owner or not target.ready:
            # Nothing is started there either.
            return None
        if lacking := await self._consents.lacking(job.owner.namespace, of_target(spec), spec):
            return TargetProblem(lacking.reason, lacking.message)
        try:
            found = await self._backend.made_for(job.owner.namespace, spec, self._install_id)
        except BackendError as error:
            return TargetProblem(error.reason, str(error))
        self._sought.add(uid)
        for made in found:
            if made.owner.uid == uid:
                self.run_keys.note(job, made.run_key)
        return None

    async def _runs(
        self, job: FineTuneJobResource, run_key: str | None, place: ComputeTargetSpec | None
    ) -> tuple[list[RunState], TargetProblem | None]:
        if run_key is None:
            # Nothing was sent before the key was written.
            return [], None
        try:
            address = RunAddress(
                job.owner,
                run_key,
                place,
                running=running_names(job.status.get("attempts")),
                job_id=(job.status.get("external") or {}).get("jobId"),
                kept=self._are_kept(job),
            )
            return await self._backend.observe(address), None
        except BackendError as error:
            return [], TargetProblem(error.reason, str(error))

    def _are_kept(self, job: FineTuneJobResource) -> bool:
        """Whether runs continue when the job is deleted."""
        policy = job.spec.deletion_policy if job.spec else None
        return policy == "Orphan" or self._cache.lets_dependents_go(job.owner.uid)

    def _output_rival(self, job: FineTuneJobResource) -> str:
        """Who has the output Model's name already: another Model, or an older job."""
        output = job.spec.output if job.spec else None
        if output is None or output.model_name is None:
            return ""
        namespace, name = job.owner.namespace, output.model_name
        advice = "choose another spec.output.modelName"
        body = self._cache.get("Model", namespace, name)
        if body is not None:
            noted: str | None = ((job.status.get("result") or {}).get("modelRef") or {}).get("name")
            maker = made_by(body) or (job.name if noted == name else None)
            if maker != job.name:
                whose = f"is the output of FineTuneJob {maker}" if maker else "exists already"
                return f"Model {name} {whose}: {advice}"
        for key in self._cache.dependents(Key("Model", namespace, name)):
            other = self._cache.get(*key) if key.kind == "FineTuneJob" else None
            if other is None or key.name == job.name:
                continue
            rival: FineTuneJobResource = parse(other)
            wants = rival.spec and rival.spec.output and rival.spec.output.model_name == name
            if (
                not wants
                or rival.deleting
                or rival.status.get("phase")
                in (
                    Phase.FAILED,
                    Phase.CANCELLED,
                )
            ):
                continue
            if (rival.created, rival.name) < (job.created, job.name):
                return f"FineTuneJob {rival.name} makes Model {name} too, and is older: {advice}"
        return ""
