"""An evaluation of one candidate from plan to outcome, what costs least first.

``rows`` chooses and encodes, ``candidate`` finds and loads the model, ``measuring`` runs it,
``metrics`` and ``table`` make numbers of what it did, ``harness`` asks for benchmarks, and
``report`` leaves them all.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING, Any

from kubetune.api.bounded import json_file
from kubetune.api.metrics.metric import WITHOUT_REFERENCE
from kubetune.api.run.evaluation_plan import (
    SAMPLES_ARTIFACT,
    EvaluationRunPlan,
    EvaluationSummary,
)
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import METRIC_STEP, TAG_TOTAL_STEPS
from kubetune.api.run.training_plan import TokenizerPlan

from kubetune_runner import doctor, finite, outcomes, run_log, startup_gc
from kubetune_runner.evaluate import candidate, harness, judge, report, rows, table, user_metric
from kubetune_runner.evaluate.candidate import Candidate
from kubetune_runner.evaluate.harness import Benchmarks
from kubetune_runner.evaluate.metrics import MeasuredRow
from kubetune_runner.evaluate.rows import AskedRows
from kubetune_runner.evaluate.table import Column
from kubetune_runner.mlflow import records
from kubetune_runner.mlflow.closing import close
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.model import loading, quantization
from kubetune_runner.stages import Watch

if TYPE_CHECKING:
    from kubetune_runner.evaluate.measuring import Progress

OTHER_FORMAT = "use precision fp32 or bf16, or leave the candidate out"
OTHER = "leave the candidate out, or name a Model with whole weights"

log = logging.getLogger(__name__)


def run(plan: EvaluationRunPlan) -> Outcome:
    """Measure the candidate and report.

    Raises RunError when the run can't continue, Interrupted after a signal.
    """
    tracker = Tracker(plan)
    tracker.start()
    tracker.phase("preparing")
    tracker.params(report.parameters(plan))
    tracker.call(
        lambda client, run_id: records.log_dataset(client, run_id, plan.dataset, "evaluation")
    )
    try:
        doctor.require(plan)
        outcome = _run(plan, tracker)
    except BaseException as error:
        close(tracker, outcomes.from_error(error))
        raise
    close(tracker, outcome)
    return outcome


def _run(plan: EvaluationRunPlan, tracker: Tracker) -> Outcome:
    generates = bool(plan.custom_metrics or plan.judges) or any(
        name not in WITHOUT_REFERENCE for name in plan.metrics
    )
    stages = tracker.stages
    chosen = rows.choose(plan, answers=generates, watch=stages)
    found = candidate.find(plan.model, TokenizerPlan(chat_template=plan.chat_template), stages)
    stages.begin("tokenizing")
    asked = rows.ask(chosen.rows, plan, found.tokenizer, found.context, answers=generates)
    log.info(
        "rows: %d, without answer: %d, too long: %d", len(asked.rows), asked.empty, asked.too_long
    )
    # Reading has taken as long as a server needs to answer.
    done = report.earlier(tracker, plan)
    if done is not None:
        log.info("an earlier attempt has measured all of it")
        return report.outcome(done)
    tracker.check()
    measured, benchmarks = _measure(plan, tracker, found, asked, generates)
    columns = _columns(plan, measured, asked, stages) | benchmarks.columns
    _log_errors(columns)
    stages.begin("uploading")
    report.store_rows(tracker, measured, columns, plan.samples, benchmarks.rows)
    summary = report.fitted(
        EvaluationSummary(
            metrics={name: column.measured for name, column in columns.items()},
            rows=len(measured),
            rows_digest=rows.digest(asked.rows, loss=_has_loss(plan)),
            tokens=sum(row.labels for row in measured) or None,
            loss_rows=sum(row.loss for row in asked.rows) if _has_loss(plan) else None,
            split_rows=chosen.of,
            skipped=asked.empty + asked.too_long,
            run_id=tracker.run_id or "",
            experiment_id=tracker.experiment_id or "",
            samples_artifact=SAMPLES_ARTIFACT if plan.samples else None,
        )
    )
    report.publish(tracker, plan, summary)
    return report.outcome(summary)


def _measure(
    plan: EvaluationRunPlan, tracker: Tracker, found: Candidate, asked: AskedRows, generates: bool
) -> tuple[list[MeasuredRow], Benchmarks]:
    """Load the candidate and run it over the rows, then over the tasks."""
    tracker.stages.begin("loading")
    if not _is_quantized(found):
        quantization.leave_out()
    run_log.quieten()
    from kubetune_runner.evaluate import measuring
    from kubetune_runner.model import precision

    dtype = precision.DTYPES[precision.chosen(plan.precision, "precision")]
    model: Any = candidate.load(found, dtype)
    rows_of = (ids for row in asked.rows for ids in (row.encoded.input_ids, row.encoded.prompt_ids))
    loading.check_tokens(plan.candidate, model, found.tokenizer, (ids or () for ids in rows_of))
    finite.check_weights(model, f"weights of candidate {plan.candidate}", OTHER, trained_only=False)
    probe = [row.encoded.input_ids for row in asked.rows[:1]]
    finite.check_scores(model, probe, f"candidate {plan.candidate}", OTHER_FORMAT)
    startup_gc.over()
    wanted = [row for row in asked.rows if row.answer] if generates else asked.rows[: plan.samples]
    answered = {row.number for row in wanted if rows.fits(row.encoded, plan, found.context)}
    total = len(asked.rows)
    progress = measuring.Progress(total, tracker.stages.begin("evaluating", "rows", total))
    tracker.tags({TAG_TOTAL_STEPS: str(progress.total)})
    tracker.watch(progress.gauges)
    measured = measuring.measure(
        model,
        found.tokenizer,
        asked.rows,
        plan,
        progress,
        loss=_has_loss(plan),
        answered=answered,
    )
    benchmarks = _benchmarks(plan, tracker, model, found, progress)
    tracker.metrics({METRIC_STEP: progress.done}, progress.done)
    return measured, benchmarks


def _benchmarks(
    plan: EvaluationRunPlan, tracker: Tracker, model: Any, found: Candidate, progress: Progress
) -> Benchmarks:
    if not plan.tasks:
        return Benchmarks()
    before = progress.done
    report = tracker.stages.begin("tasks", "requests")
    progress.report = lambda done, total: report(done - before, (total or 0) - before)

    def expect(requests: int) -> None:
        progress.expect(requests)
        tracker.tags({TAG_TOTAL_STEPS: str(progress.total)})

    counter = harness.Counter(expect, progress.finish_one)
    return harness.measure(plan, model, found.tokenizer, found.context, counter)


def _columns(
    plan: EvaluationRunPlan, measured: list[MeasuredRow], asked: AskedRows, watch: Watch
) -> dict[str, Column]:
    """Every metric of the plan on the rows that are for it, computed or an error."""
    pairs = list(zip(measured, asked.rows, strict=True))
    with_loss = [row for row, one in pairs if one.loss]
    answered = [row for row, one in pairs if one.answer]
    columns: dict[str, Column] = {
        name: table.measure(name, with_loss if name in WITHOUT_REFERENCE else answered, plan.seed)
        for name in plan.metrics
    }
    for own in plan.custom_metrics:
        columns[own.name] = user_metric.measure(
            own.name, own.source, answered, plan.seed, timeout_seconds=own.timeout_seconds
        )
    judges = plan.judges or ()
    if judges:
        total = len(judges) * len(answered)
        report = watch.begin("judging", "rows", total)
        graded = count(1)
        for each in judges:
            columns[each.name] = judge.measure(
                each, answered, plan.seed, lambda: report(next(graded), total)
            )
    return columns


def _has_loss(plan: EvaluationRunPlan) -> bool:
    return any(name in WITHOUT_REFERENCE for name in plan.metrics)


def _is_quantized(found: Candidate) -> bool:
    config: dict[str, Any] = json_file(found.folder / "config.json")
    return "quantization_config" in config


def _log_errors(columns: dict[str, Column]) -> None:
    for column in columns.values():
        if column.measured.error is not None:
            log.warning("%s", column.measured.error)
