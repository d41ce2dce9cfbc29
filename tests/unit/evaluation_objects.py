"""Valid Evaluations and observations of them, changed by keyword."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from builders import (
    DATASET_FOUND,
    KEYS,
    MODEL_FOUND,
    NOW,
    assert_fits,
    dataset,
    model,
    ready,
    resource,
    target,
)
from kubetune.api import JsonObject
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_SUMMARY
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import (
    Decision,
    FindAlias,
    FindEvaluation,
    MoveAlias,
    StartRun,
)
from kubetune.decide.evaluation.observed import (
    EvaluationAnswers,
    ObservedCandidate,
    ObservedEvaluation,
)
from kubetune.decide.evaluation.states import decide
from kubetune.decide.resources import Resource
from kubetune.tracking.base import RegisteredVersion, TrackedRun


@dataclass(frozen=True)
class Decided(Decision[Any]):
    """A decision with a status."""

    status: Any = field(default_factory=dict[str, Any])


def decided(given: ObservedEvaluation, now: datetime = NOW) -> Decided:
    """What is decided, which must come with a status."""
    decision = decide(given, now)
    assert decision.status is not None
    return Decided(decision.actions, decision.status, decision.requeue_after)


def spec_of(*names: str, **fields: Any) -> JsonObject:
    """The spec of an Evaluation with candidates of these names, each of a Model of its name."""
    given: JsonObject = {
        "candidates": [{"name": name, "modelRef": {"name": name}} for name in names],
        "datasetRef": {"name": "tickets"},
        "metrics": ["exactMatch", "loss"],
    }
    return given | fields


def evaluation(
    *names: str, status: Mapping[str, Any] | None = None, **fields: Any
) -> Resource[Any, Any]:
    spec = spec_of(*(names or ("base", "tuned")), **fields)
    return resource("Evaluation", "compare", spec, status=status or {})


def hub_model(name: str) -> Resource[Any, Any]:
    """A Ready Model whose weights differ from those of other names."""
    return ready(model(name=name), **MODEL_FOUND | {"revision": f"commit-of-{name}"})


def registered_model(name: str, version: int, registry: str = "tickets") -> Resource[Any, Any]:
    """A Ready Model of a registered version."""
    source = {"source": {"registry": {"name": registry, "version": version}}}
    given = resource("Model", name, source)
    return ready(given, **MODEL_FOUND | {"revision": str(version)})


def observed(given: Resource[Any, Any] | None = None, **fields: Any) -> ObservedEvaluation:
    """An Evaluation with ready inputs; ``models`` replaces Models by candidate."""
    given = given or evaluation()
    models: JsonObject = fields.pop("models", {})
    runs: JsonObject = fields.pop("runs", {})
    around: JsonObject = fields.pop("around", {})
    candidates = [
        ObservedCandidate(
            item.name,
            item.model_ref.name,
            model=models[item.name] if item.name in models else hub_model(item.name),
            runs=runs.get(item.name, ()),
            **around.get(item.name, {}),
        )
        for item in (given.spec.candidates if given.spec else ())
    ]
    everything: JsonObject = {
        "evaluation": given,
        "install_id": "install",
        "keys": KEYS,
        "target": target(),
        "candidates": candidates,
        "dataset": ready(dataset(), **DATASET_FOUND),
    }
    return ObservedEvaluation(**(everything | fields))


def summary(**metrics: float) -> JsonObject:
    """The summary of a run, as it comes in an outcome."""
    values = {"exactMatch": 0.5, "loss": 2.0} | metrics
    return {
        "metrics": {name: {"value": value} for name, value in values.items()},
        "rows": 10,
        "rowsDigest": "sha256:rows",
        "runId": "run-1",
        "experimentId": "7",
        "samplesArtifact": "evaluation/samples.jsonl",
    }


def evaluated(**metrics: float) -> Outcome:
    return Outcome(status="succeeded", reason="Evaluated", summary=summary(**metrics))


def tracked(**metrics: float) -> TrackedRun:
    """A complete run of an earlier evaluation."""
    tags = {TAG_EVALUATION_SUMMARY: json.dumps(summary(**metrics))}
    return TrackedRun("another", "7", "run-1", "FINISHED", tags=tags)


def version(number: int, **tags: str) -> RegisteredVersion:
    return RegisteredVersion("tickets", number, "run-1", "models:/m-1", "READY", tags=tags)


def settle(
    given: ObservedEvaluation,
    results: dict[str, JsonObject],
    holder: RegisteredVersion | None = None,
    moved_to: int | None = None,
) -> Any:
    """The status after all candidates were found measured with these metrics by candidate.

    ``holder`` has the alias, and ``moved_to`` has it after the move.
    """
    found = {_digests(given)[name]: tracked(**metrics) for name, metrics in results.items()}
    parallel = replace(given, answers=EvaluationAnswers(found=found))
    spec = parallel.evaluation.spec
    assert spec is not None
    decision = decide(parallel, NOW)
    for _ in range(3):
        asked = decision.actions
        answers = parallel.answers
        for action in asked:
            match action:
                case FindAlias():
                    answers = replace(answers, alias_sought=True, holder=holder)
                case MoveAlias(move):
                    answers = replace(answers, move=replace(move, holder=moved_to))
                case _:
                    raise AssertionError(action)
        if not asked:
            break
        assert decision.status is not None
        again = replace(parallel.evaluation, status=decision.status)
        parallel = replace(parallel, evaluation=again, answers=answers)
        decision = decide(parallel, NOW)
    assert decision.status is not None
    assert_fits("Evaluation", decision.status)
    return decision.status


def _digests(given: ObservedEvaluation) -> dict[str, str]:
    """The digest of each candidate, as the Evaluation asks for it."""
    decision = decide(given, NOW)
    asked = [action.digest for action in decision.actions if isinstance(action, FindEvaluation)]
    spec = given.evaluation.spec
    assert spec is not None
    assert len(asked) == len(spec.candidates), decision.status
    return dict(zip((item.name for item in spec.candidates), asked, strict=True))


def not_found(given: ObservedEvaluation) -> ObservedEvaluation:
    """The same, after the tracking server was asked for equal measurements and knows none."""
    asked = [a.asked for a in decide(given, NOW).actions if isinstance(a, FindEvaluation)]
    return replace(given, answers=EvaluationAnswers(found=dict.fromkeys(asked)))


def started(decision: Decision[Any]) -> list[str]:
    """Names of the candidates whose runs are started, in order."""
    return [a.request.plan["candidate"] for a in decision.actions if isinstance(a, StartRun)]


def phases(status: Mapping[str, Any] | None) -> dict[str, str]:
    """Phase by candidate."""
    return {item["name"]: item["phase"] for item in (status or {})["candidates"]}


def candidate(status: Mapping[str, Any] | None, name: str) -> JsonObject:
    return next(item for item in (status or {})["candidates"] if item["name"] == name)
