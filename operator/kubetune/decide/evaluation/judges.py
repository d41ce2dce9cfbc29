"""The judges of an Evaluation as its plan names them, and the Secrets that they need."""

from __future__ import annotations

from kubetune.api.kinds.evaluation.spec import EvaluationSpec
from kubetune.api.metrics.judge import DEFAULT_RUBRIC, JudgeScale
from kubetune.api.run.evaluation_plan import JudgePlan
from kubetune.api.run.plan import ENV_JUDGE_KEY
from kubetune.api.schema.base import SecretKeyRef


def judge_plans(spec: EvaluationSpec) -> list[JudgePlan] | None:
    """All judges in the order of their names; None without any."""
    plans: list[JudgePlan] = []
    for at, judge in enumerate(sorted(spec.judges or (), key=lambda judge: judge.name)):
        scale = judge.scale or JudgeScale()
        plans.append(
            JudgePlan(
                name=judge.name,
                base_url=judge.base_url.rstrip("/"),
                model=judge.model,
                rubric=judge.rubric or DEFAULT_RUBRIC,
                minimum=scale.min,
                maximum=scale.max,
                concurrency=judge.concurrency,
                timeout_seconds=judge.timeout_seconds,
                max_retries=judge.max_retries,
                key_variable=f"{ENV_JUDGE_KEY}{at}" if judge.api_key_secret_ref else None,
            )
        )
    return plans or None


def judge_keys(spec: EvaluationSpec) -> dict[str, SecretKeyRef]:
    """Variable of the run's environment -> Secret key with an API key."""
    judges = sorted(spec.judges or (), key=lambda judge: judge.name)
    return {
        f"{ENV_JUDGE_KEY}{at}": judge.api_key_secret_ref
        for at, judge in enumerate(judges)
        if judge.api_key_secret_ref
    }
