"""Short runs that read a source and report what it is: rows, columns and digests of a dataset,
type and shape of a model, one rendered row of a prompt. They import neither torch nor
transformers, so that they start in a second and fit into a small pod.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import ENV_DATASET_TOKEN, InspectionPlan

from kubetune_runner.errors import RunError
from kubetune_runner.inspection.report import fit, publish

logger = logging.getLogger(__name__)

REASONS = {"inspectDataset": "Inspected", "inspectModel": "Inspected", "renderPrompt": "Rendered"}


def run(plan: InspectionPlan) -> Outcome:
    """Do the inspection; what is wrong with the source becomes a failed outcome.

    The summary holds the fields of DatasetInspection, ModelInspection or PromptSample, or of
    a failure ``problems`` and ``problemCount``; it fits a termination message. The full
    report of a dataset is an artifact of the tracking server, where one answers.
    """
    report: dict[str, Any] = {}
    try:
        summary = _inspect(plan, report)
        outcome = Outcome(
            status="succeeded",
            reason=REASONS[plan.kind],
            message="",
            retryable=False,
            summary=summary,
        )
    except RunError as error:
        report.update(getattr(error, "report", {}))
        outcome = Outcome(
            status="failed",
            reason=error.reason,
            message=error.message,
            retryable=error.retryable,
            summary=error.summary,
        )
    # Only a dataset has more to report than fits; a rendered row may be private.
    if plan.tracking and plan.kind == "inspectDataset" and not outcome.retryable:
        document = {**outcome.to_json(), **report}
        uri = publish(plan.tracking, plan.run, plan.kind, document)
        if uri:
            summary = {**outcome.summary, "reportUri": uri}
            outcome = outcome.model_copy(update={"summary": summary})
    return fit(outcome)


def _inspect(plan: InspectionPlan, report: dict[str, Any]) -> dict[str, Any]:
    if plan.kind == "inspectModel":
        from kubetune_runner.inspection.model import inspect_model

        if plan.model is None:
            raise RunError("PlanInvalid", "model: an inspectModel plan needs one")
        return inspect_model(plan.model, plan.tracking).to_json()
    token = os.environ.get(ENV_DATASET_TOKEN) or None
    if plan.dataset is None:
        raise RunError("PlanInvalid", f"dataset: a plan of kind {plan.kind} needs one")
    if plan.kind == "renderPrompt":
        from kubetune_runner.inspection.prompt import render_sample

        return render_sample(plan.dataset, plan.prompt, token).to_json()
    from kubetune_runner.inspection.dataset import inspect_dataset

    return inspect_dataset(plan.dataset, token, plan.model, plan.tracking, report).to_json()
