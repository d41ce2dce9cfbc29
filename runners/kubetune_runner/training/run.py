"""A training run from plan to outcome, in the order in which a mistake costs least.

What can be checked without torch is checked before it is imported; the MLflow run exists before
that too, so a user sees the job from its first seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import TAG_METRICS, RunPlan
from kubetune.api.run.stages import Stage

from kubetune_runner import doctor, finite, outcomes, own_code
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import records
from kubetune_runner.mlflow.closing import close
from kubetune_runner.mlflow.tracking import NullTracker, Tracker
from kubetune_runner.results import save_results, upload_results
from kubetune_runner.run_log import quieten
from kubetune_runner.signals import StopSignal
from kubetune_runner.stages import unseen
from kubetune_runner.training.fitting import fit, make_trainer
from kubetune_runner.training.inputs import Inputs, prepare
from kubetune_runner.training.workers import SINGLE_WORKER, Workers, lost, worker_of

if TYPE_CHECKING:
    from kubetune_runner.training.held_out import Evaluation
    from kubetune_runner.training.trainer import RunTrainer


def run(plan: RunPlan, stop: StopSignal) -> Outcome:
    """Train, evaluate and upload.

    Raises RunError when the run can't continue, Interrupted after a signal.
    """
    own = plan.training.script is not None or plan.training.axolotl is not None
    inherited = dict(os.environ)
    if own and worker_of(plan):
        doctor.require(plan)
        return own_code.run(plan.in_force, stop, NullTracker(plan.in_force), inherited)
    # Own code has processes of its own.
    workers = SINGLE_WORKER if own else Workers.of(plan)
    if not workers.leads:
        doctor.require(plan)
        return _run(plan.in_force, stop, NullTracker(plan), workers)
    # Parameters are those of all attempts, so they tell what is declared.
    declared, plan = plan, plan.in_force
    tracker = Tracker(plan)
    tracker.start()
    tracker.phase("preparing")
    tracker.params(records.parameters(declared))
    if plan.batch:
        tracker.tags(records.batch_tags(plan.batch))
    tracker.call(
        lambda client, run_id: records.log_dataset(client, run_id, plan.dataset, "training")
    )
    try:
        doctor.require(plan)
        if not own:
            outcome = _run(plan, stop, tracker, workers)
        else:
            outcome = own_code.run(plan, stop, tracker, inherited)
    except BaseException as error:
        close(tracker, outcomes.from_error(error))
        raise
    close(tracker, outcome)
    return outcome


def _run(plan: RunPlan, stop: StopSignal, tracker: Tracker, workers: Workers) -> Outcome:
    inputs = prepare(plan, tracker.stages)
    quieten()
    try:
        workers.join()
        outcome = _train(plan, inputs, stop, tracker, workers)
        workers.leave()
        return outcome
    except Exception as error:
        if workers.several and not isinstance(error, RunError) and (ended := lost(error)):
            raise ended from error
        raise
    finally:
        inputs.start.discard()


def _train(
    plan: RunPlan, inputs: Inputs, stop: StopSignal, tracker: Tracker, workers: Workers
) -> Outcome:
    from kubetune_runner.training import objectives, strategies
    from kubetune_runner.training.objectives.base import Measure

    objective = objectives.load(plan.training.objective)
    stages = tracker.stages
    stages.begin("loading")
    trainer, progress = make_trainer(plan, inputs, stop, tracker, workers)
    held_out = Measure(inputs.tokenizer, inputs.evaluation.rows, plan.training, inputs.context)

    def measure(stage: Stage) -> Evaluation:
        trainer.report = stages.begin(stage, "rows")
        try:
            return objective.evaluate(trainer, held_out)
        finally:
            # Evaluations on the way are part of the training.
            trainer.report = unseen

    baseline = measure("baseline") if plan.training.evaluation.baseline else None
    if baseline is not None:
        finite.check_metrics(baseline.as_baseline(), "before any training", finite.OTHER_MODEL)
        tracker.metrics(baseline.as_baseline(), 0)
    counts = inputs.train.counts()
    tracker.metrics({f"train_rows_{key.lower()}": value for key, value in counts.items()}, 0)
    tracker.check()
    fit(plan, stop, trainer, progress, workers)
    steps = trainer.state.global_step
    finite.check_weights(trainer.model, f"after step {steps} weights", agree=workers.agree)
    with trainer.compute_loss_context_manager():
        trained = _texts(inputs.train.rows)
        finite.check_scores(
            trainer.model, trained, f"the model of step {steps}", agree=workers.agree
        )
    tuned = measure("evaluating")
    metrics = dict(tuned.metrics)
    loss = _mean_loss(trainer)
    if loss is not None:
        metrics["train_loss"] = loss
    if baseline is not None:
        metrics |= baseline.as_baseline()
    finite.check_metrics(metrics, f"after step {steps}, although the loss in training was not")
    tracker.metrics(metrics, steps)
    tracker.tags({TAG_METRICS: json.dumps(metrics)})
    if workers.strategy == "fsdp2":
        strategies.gather(trainer.model, keep=workers.leads)
    if not workers.leads:
        return Outcome(
            status="succeeded", reason="Trained", message=f"rank {workers.rank} trained along"
        )
    stages.begin("merging" if plan.merge or inputs.start.merged else "uploading")
    saved = save_results(
        plan,
        inputs.start,
        trainer.model,
        inputs.tokenizer,
        chat=inputs.chat,
        rows=_texts(inputs.train.rows),
    )
    summary: dict[str, Any] = {
        "metrics": metrics,
        **upload_results(plan, tracker, saved, inputs.splits, baseline, tuned, metrics),
        "steps": steps,
        **tracker.last_values(),
    }
    return Outcome(
        status="succeeded",
        reason="Trained",
        message=f"trained {steps} steps",
        summary=summary,
    )


def _texts(rows: Sequence[Any]) -> list[list[int]]:
    """The first rows as token ids; of preferences their prompts."""
    return [getattr(row, "input_ids", None) or row.prompt_ids for row in rows[:2]]


def _mean_loss(trainer: RunTrainer) -> float | None:
    from kubetune_runner.training.trainer import mean_loss

    return mean_loss(trainer.state.log_history)
