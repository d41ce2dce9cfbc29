"""The end of a FineTuneJob whose run succeeded: find the result, register it, complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.api.kinds.status_types import (
    JobOutputDict,
    MergedResultDict,
    RegisteredResultDict,
    ResultDict,
)
from kubetune.api.rows import loss_rows
from kubetune.api.run.plan import (
    TAG_FILES,
    TAG_JOB,
    TAG_LINEAGE,
    TAG_METRICS,
    TAG_NAMESPACE,
    TAG_RUN_KEY,
)
from kubetune.api.training.objectives import LOGGED_NAMES
from kubetune.decide.decision import CreateModel, FindRun, FineTuneJobDecision, Register, rfc3339
from kubetune.decide.fine_tune_job.continuation import leaves_adapter
from kubetune.decide.fine_tune_job.draft import Draft, fail
from kubetune.decide.fine_tune_job.observed import (
    merged_name,
    promotion_demands,
    registry_alias,
    registry_name,
)
from kubetune.decide.fine_tune_job.progress import (
    finished_progress,
    mlflow_link,
    progress,
    result_metrics,
    row_counts,
    tagged_metrics,
    tracked_metrics,
)
from kubetune.decide.fine_tune_job.provenance import statement
from kubetune.decide.fine_tune_job.run_result import RunResult, result_of
from kubetune.decide.gate import misses
from kubetune.decide.memory.batch import note_lineage
from kubetune.decide.retries import RIVAL_SECONDS, TRACKER_SECONDS
from kubetune.decide.target.unreachable import tracker_unreachable
from kubetune.decide.trained_rows import of_lineage
from kubetune.names import JOB, MANAGED_BY
from kubetune.targets.values import RunState
from kubetune.tracking.base import RegisteredVersion, Registration, TrackedRun
from kubetune.tracking.facts import tracker_facts


def finish(draft: Draft) -> FineTuneJobDecision:
    """What is left to do after the newest attempt succeeded."""
    observed, answers = draft.observed, draft.observed.answers
    newest = max((item["number"] for item in draft.attempts), default=0)
    if draft.newest and "lineage" in draft.status:
        note_lineage(draft.status["lineage"], draft.newest)
    run = next((run for run in observed.runs if run.attempt == newest), None)
    tracked = answers.run or observed.tracked
    wanted, result = registry_name(observed), result_of(run, tracked)
    draft.conditions.set(ConditionType.RUNNING, False, Reason.SUCCEEDED, "the run has ended well")
    told: Any = run.outcome.summary.get("metrics") if run and run.outcome else None
    metrics: JsonObject = told or tracked_metrics(tracked)
    if (run and run.outcome) or tracked:
        _keep_result(draft, metrics, result)
    if run and run.outcome and (rows := row_counts(run.outcome.summary)):
        draft.result["rows"] = rows
    summary: JsonObject = dict(run.outcome.summary) if run and run.outcome else {}
    _show_last_progress(draft, tracked, summary, metrics)

    # 1. Nobody asked for a version.
    if wanted is None:
        output = draft.spec.output
        lacks_result = "modelUri" not in (draft.status.get("result") or {})
        if output and output.model_name and lacks_result and not answers.run_sought:
            # Its pod is gone, or has said nothing: the Model needs what MLflow knows.
            return _registering(draft, FindRun(observed.run_key))
        return _complete(draft, "the run has ended well")

    # 2. The version is made: complete.
    unmet = misses(promotion_demands(observed), _by_name(metrics))
    if answers.registered:
        return adopt(draft, answers.registered, answers.merged, unmet)

    # 3. Registering needs to know the run's result, and the experiment where the registry asks.
    facts = tracker_facts(observed.place)
    merged = merged_name(observed)
    incomplete = result is not None and merged is not None and not result.merged_source
    if result is None or incomplete or (facts.needs_experiment_id and not result.experiment_id):
        if answers.run_sought and not answers.tracking_error:
            return fail(
                draft,
                Reason.RESULT_MISSING,
                f"the run ended well but left no model in {facts.name}: look at its log, and at"
                " spec.tracking of the compute target",
            )
        return _registering(draft, FindRun(observed.run_key))

    # 4. Register: one version for the run, however often this is tried.
    alias = None if unmet else registry_alias(observed)
    owner = observed.job.owner
    lineage = draft.status.get("lineage") or {}
    tags = {
        TAG_RUN_KEY: observed.run_key,
        TAG_NAMESPACE: owner.namespace,
        TAG_JOB: owner.name,
        TAG_LINEAGE: lineage.get("digest", ""),
        # For those who adopt the version.
        **({TAG_METRICS: json.dumps(final)} if (final := _numbers(metrics)) else {}),
    } | {
        f"kubetune.{key}": json.dumps(value) if isinstance(value, list) else str(value)
        for key, value in lineage.items()
        if key != "digest"
    }
    name, source, files, is_merged = wanted, result.source, result.files_digest, False
    if merged and answers.merged is None:
        # Before the adapter: its version tells that all is there.
        name, source, files = merged, result.merged_source, result.merged_files_digest
        is_merged = True
    registration = Registration(
        name,
        alias,
        result.experiment_id,
        result.run_id,
        source,
        tags | ({TAG_FILES: files} if files else {}),
        _stated(draft, run, files, metrics, merged=is_merged),
    )
    return _registering(draft, Register(registration, merged=is_merged))


def _stated(
    draft: Draft, run: RunState | None, digest: str | None, metrics: JsonObject, *, merged: bool
) -> JsonObject | None:
    outcome = run.outcome if run else None
    return statement(draft, outcome, digest, _numbers(metrics), merged=merged)


def _show_last_progress(
    draft: Draft, tracked: TrackedRun | None, summary: JsonObject, metrics: JsonObject
) -> None:
    """The status at the end is that of the last step, whatever polls have seen."""
    # No other attempt will continue from it, and in CML it is deleted.
    draft.status.pop("lastCheckpoint", None)
    shown = draft.status.pop("progress", None)
    if tracked:
        seen = shown.get("updatedAt") if shown else None
        shown = progress(tracked, draft.now)
        if seen:
            shown["updatedAt"] = seen
    last = finished_progress(shown, summary, metrics, draft.now)
    if last is not None:
        draft.status["progress"] = last


def _by_name(metrics: JsonObject) -> dict[str, float]:
    """By their names in the API."""
    return {LOGGED_NAMES.get(name, name): value for name, value in _numbers(metrics).items()}


def _numbers(metrics: JsonObject) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def adopt(
    draft: Draft,
    version: RegisteredVersion,
    merged: RegisteredVersion | None = None,
    unmet: Sequence[str] = (),
) -> FineTuneJobDecision:
    """Complete with a registered version: the run's own, or an identical one from before.

    ``unmet`` are the demands of promoteWhen that keep the alias where it is.
    """
    alias = registry_alias(draft.observed)
    result = draft.result
    _note(result, version, alias)
    if merged:
        _note(result.setdefault("merged", {}), merged, alias)
    reused = bool(result.get("reused"))
    if reused and (metrics := result_metrics(tagged_metrics(version.tags))):
        result["metrics"] = metrics
    said = f"{version.name} version {version.version}"
    message = f"adopted {said}, which has the same lineage" if reused else f"registered as {said}"
    facts = tracker_facts(draft.observed.place)
    if alias and not facts.has_aliases:
        message += f"; {facts.registry} has no aliases, so {alias} was not set"
    draft.conditions.set(
        ConditionType.REGISTERED, True, Reason.REUSED if reused else Reason.REGISTERED, message
    )
    if alias and promotion_demands(draft.observed):
        _tell_promotion(draft, version, alias, unmet)
    return _complete(
        draft, f"adopted {said} instead of training again" if reused else f"registered as {said}"
    )


def _note(
    result: ResultDict | MergedResultDict, version: RegisteredVersion, alias: str | None
) -> None:
    registered: RegisteredResultDict = {"name": version.name, "version": version.version}
    if alias and alias in version.aliases:
        registered["alias"] = alias
    result["registered"] = registered
    result.setdefault("modelUri", version.source)
    if files := version.tags.get(TAG_FILES):
        result.setdefault("filesDigest", files)


def _tell_promotion(
    draft: Draft, version: RegisteredVersion, alias: str, unmet: Sequence[str]
) -> None:
    """Condition Promoted, where promoteWhen asks for it."""
    said = f"{version.name} version {version.version}"
    promoted = alias in version.aliases
    facts = tracker_facts(draft.observed.place)
    reason = Reason.PROMOTED if promoted else Reason.NOT_PROMOTED
    if promoted:
        message = f"{said} has alias {alias}"
    elif unmet:
        message = f"{said} does not get alias {alias}: {', '.join(unmet)}"
    elif not facts.has_aliases:
        reason = Reason.REGISTRY_WITHOUT_ALIASES
        message = f"{facts.registry} has no aliases, so {alias} was not set"
    elif (draft.status.get("result") or {}).get("reused"):
        message = f"{said} was made before, without alias {alias}: it stays where it is"
    else:
        message = f"alias {alias} stays with a newer version than {version.version}"
    draft.conditions.set(ConditionType.PROMOTED, promoted, reason, message)


def _keep_result(draft: Draft, metrics: dict[str, Any], found: RunResult | None) -> None:
    result = draft.result
    if chosen := result_metrics(metrics):
        result["metrics"] = chosen
    if found:
        result["modelUri"] = found.source
        if found.files_digest:
            result["filesDigest"] = found.files_digest
        if found.merged_source:
            merged = result.setdefault("merged", {})
            merged["modelUri"] = found.merged_source
            if found.merged_files_digest:
                merged["filesDigest"] = found.merged_files_digest
    tracked = draft.observed.answers.run or draft.observed.tracked
    if tracked and draft.observed.place:
        draft.status["mlflow"] = mlflow_link(tracked, draft.observed.place)


def _registering(draft: Draft, action: FindRun | Register) -> FineTuneJobDecision:
    answers = draft.observed.answers
    if answers.tracking_refused:
        return _refused(draft, answers.tracking_refused)
    draft.phase(Phase.REGISTERING)
    observed = draft.observed
    away = tracker_unreachable(
        observed.place, observed.target, answers.tracking_error, answers.tracking_reason
    )
    going_on = Reason.REGISTERING, "the run has ended well; its result is being registered"
    reason, message = away or going_on
    draft.conditions.set(ConditionType.REGISTERED, False, reason, message)
    draft.conditions.waiting(reason, message)
    draft.actions.append(action)
    return draft.decision(TRACKER_SECONDS)


def _refused(draft: Draft, error: str) -> FineTuneJobDecision:
    """The registry refuses the result, and always will."""
    uri = (draft.status.get("result") or {}).get("modelUri")
    message = f"the run has ended well, but its result can't be registered: {error}"
    if uri:
        message += f"; the result is {uri}, which can be registered by hand"
    draft.conditions.set(ConditionType.REGISTERED, False, Reason.TRACKING_REFUSED, message)
    return fail(draft, Reason.TRACKING_REFUSED, message)


def _left_out(draft: Draft) -> str:
    """What the final metrics say nothing of, as the end of a sentence; empty for nothing."""
    rows = (draft.status.get("result") or {}).get("rows") or {}
    held_out = rows.get("evaluation")
    if held_out is None:
        return ""
    with_loss, no_room = held_out.get("lossRows"), held_out.get("noRoom")
    said = ""
    if with_loss is not None and with_loss < held_out["used"]:
        said = f"; {loss_rows(with_loss, held_out['used'])}"
    if not no_room:
        return said
    answered = held_out.get("answered") or 0
    graded = f"exactMatch and tokenF1 are of {answered}" if answered else "no answer is graded"
    return (
        f"{said}; {graded} of {held_out['used']} held-out rows: {no_room} leave no room for"
        " evaluation.maxNewTokens tokens within the model's context"
    )


def _complete(draft: Draft, message: str) -> FineTuneJobDecision:
    message += _left_out(draft)
    output = draft.spec.output
    if output and output.model_name:
        if rival := draft.observed.output_rival:
            # Made by somebody else while the run was under way.
            draft.phase(Phase.REGISTERING)
            draft.conditions.stalled(Reason.OUTPUT_MODEL_TAKEN, rival)
            return draft.decision(RIVAL_SECONDS)
        draft.actions.append(CreateModel(_output_model(draft, output.model_name)))
        draft.result["modelRef"] = {"name": output.model_name}
    draft.phase(Phase.SUCCEEDED)
    draft.status["completionTime"] = rfc3339(draft.now)
    draft.conditions.remove(ConditionType.TRACKING_AVAILABLE)
    draft.conditions.set(ConditionType.COMPLETE, True, Reason.SUCCEEDED, message)
    draft.conditions.ready(Reason.SUCCEEDED, message)
    return draft.decision()


def _output_model(draft: Draft, name: str) -> JsonObject:
    """The Model of the result. It has no owner: deleting the job leaves it."""
    owner = draft.observed.job.owner
    result = draft.status.get("result") or {}
    registered = result.get("registered")
    files = result.get("filesDigest")
    digest: JsonObject = {"filesDigest": files} if files else {}
    source: JsonObject = (
        {"registry": {"name": registered["name"], "version": registered["version"], **digest}}
        if registered
        else {"fineTuneJob": {"name": owner.name}}
    )
    spec: JsonObject = {"source": source}
    # The job may be deleted before anybody has looked at the Model.
    uri = result.get("modelUri") if not registered else None
    rows = of_lineage(draft.status.get("lineage") or {}, owner.name)
    kept: JsonObject = {}
    if uri:
        left: JobOutputDict = {"name": owner.name, "uri": uri}
        if files:
            left["filesDigest"] = files
        if rows:
            left["trainedOn"] = rows
        kept["status"] = {"jobOutput": left}
    effective: JsonObject = draft.status.get("effective") or {}
    if leaves_adapter(effective):
        spec["baseModelRef"] = effective.get("baseModelRef") or {"name": draft.spec.model_ref.name}
    if draft.spec.compute_target_ref:
        spec["computeTargetRef"] = draft.spec.compute_target_ref.to_json()
    return {
        "apiVersion": API_VERSION,
        "kind": "Model",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": dict(MANAGED_BY),
            "annotations": {JOB: owner.name},
        },
        "spec": spec,
        **kept,
    }
