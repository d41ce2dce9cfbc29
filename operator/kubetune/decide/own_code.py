"""Whether a target runs code of users: what of a plan is such code, and what its admin says."""

from __future__ import annotations

from collections.abc import Iterator

from kubetune.api.conditions import Reason
from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.plan import ModelPlan, RunPlan
from kubetune.decide.checks import refused
from kubetune.decide.resources import Target
from kubetune.decide.waiting import NotReady
from kubetune.targets.table import facts_of


def code_refused(target: Target, plan: RunPlan | EvaluationRunPlan) -> NotReady | None:
    """What of a run the target doesn't start, if anything; named by field and target."""
    if target.spec is None:
        return None
    facts, given = facts_of(target.spec), target.spec.own_code
    field = next(_code_in(plan), "") if (given or facts.own_code) == "Refused" else ""
    if not field:
        return None
    says = "Refused" if given else f"Refused by default in {facts.name}"
    return refused(
        f"{field} is code of users, and spec.ownCode of {target.label} is {says}: leave it out, or"
        " use a target whose admin allows it",
        Reason.OWN_CODE_REFUSED,
    )


def _code_in(plan: RunPlan | EvaluationRunPlan) -> Iterator[str]:
    """The fields that bring code."""
    if isinstance(plan, RunPlan):
        if plan.training.script is not None:
            yield "trainer.script of the job or its profile"
        if plan.training.axolotl is not None:
            yield "trainer.axolotl of the job or its profile"
    else:
        yield from (f"{metric.name} of spec.functions" for metric in plan.custom_metrics)
        tasks = (task for task in plan.tasks or () if task.files)
        yield from (f"{task.name} of spec.tasks, with a configMapRef," for task in tasks)
    yield from _code_of(plan.model)


def _code_of(model: ModelPlan) -> Iterator[str]:
    for each in (model, model.base):
        if each and each.trust_remote_code:
            yield f"spec.trustRemoteCode of Model {each.name}"
