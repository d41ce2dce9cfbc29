"""What an evaluation leaves: rows as artifacts, metrics and a summary on the MLflow run."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubetune.api.bounded import NOTE, model_value
from kubetune.api.rows import loss_rows
from kubetune.api.run.evaluation_plan import (
    MAX_SUMMARY_TAG,
    ROWS_ARTIFACT,
    SAMPLES_ARTIFACT,
    TAG_EVALUATION_DIGEST,
    TAG_EVALUATION_SUMMARY,
    TASKS_ARTIFACT,
    EvaluatedRow,
    EvaluationRunPlan,
    EvaluationSummary,
    MeasuredValue,
)
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import WORK_DIRECTORY, in_container
from kubetune.api.run.vouched import with_codes

from kubetune_runner.evaluate.metrics import MeasuredRow
from kubetune_runner.evaluate.table import Column, shortened
from kubetune_runner.mlflow.records import prefixed
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import patiently
from kubetune_runner.model import loading

ERROR_LENGTHS = (200, 120, 60, 30)
"""How long an error may be; shorter ones where many are long."""
LOGGED_MODEL = "m-"
"""How MLflow's ids of logged models begin."""

log = logging.getLogger(__name__)


def earlier(tracker: Tracker, plan: EvaluationRunPlan) -> EvaluationSummary | None:
    """The summary that an earlier attempt left on the run, once the run is known."""
    tags = tracker.known_tags
    text = tags.get(TAG_EVALUATION_SUMMARY)
    if text is None or tags.get(TAG_EVALUATION_DIGEST) != plan.digest:
        return None
    try:
        return model_value(EvaluationSummary, text, NOTE)
    except ValueError as error:
        log.warning("the summary of an earlier attempt can't be read: %s", error)
        return None


def outcome(summary: EvaluationSummary) -> Outcome:
    """The outcome of a run that succeeded."""
    failed = sum(measured.error is not None for measured in summary.metrics.values())
    message = f"evaluated {summary.rows} rows"
    measured, among = summary.loss_rows, summary.split_rows
    if measured and among and measured < among:
        message += f", {loss_rows(measured, among, 'of the split')}"
    if failed:
        message += f"; {failed} of {len(summary.metrics)} metrics could not be computed"
    return Outcome(
        status="succeeded", reason="Evaluated", message=message, summary=summary.to_json()
    )


def fitted(summary: EvaluationSummary) -> EvaluationSummary:
    """The summary with its errors as long as the termination message and the tag allow."""
    for length in ERROR_LENGTHS:
        metrics = {
            name: measured
            if measured.error is None
            else MeasuredValue(error=shortened(measured.error, length))
            for name, measured in summary.metrics.items()
        }
        shorter = summary.model_copy(update={"metrics": metrics})
        try:
            outcome(shorter).to_message()
        except ValueError:
            continue
        if len(_text(shorter)) <= MAX_SUMMARY_TAG:
            return shorter
    raise ValueError("the summary of the evaluation is too long")


def store_rows(
    tracker: Tracker,
    rows: list[MeasuredRow],
    columns: Mapping[str, Column],
    samples: int,
    task_rows: Sequence[Mapping[str, Any]],
) -> None:
    """Upload the rows one by one, the first of them once more, and those of tasks.

    Raises RunError TrackingUnavailable when the server is away for long.
    """
    work = in_container(WORK_DIRECTORY)
    with tempfile.TemporaryDirectory(dir=work if work.is_dir() else None) as folder:
        files = [_write(Path(folder) / Path(ROWS_ARTIFACT).name, rows, columns)]
        if samples:
            path = Path(folder) / Path(SAMPLES_ARTIFACT).name
            files.append(_write(path, rows[:samples], columns))
        if task_rows:
            path = Path(folder) / Path(TASKS_ARTIFACT).name
            files.append(path)
            with path.open("w", encoding="utf-8") as stream:
                for row in task_rows:
                    # A task's values may be of numpy.
                    stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

        def store(run_id: str) -> None:
            for path in files:
                tracker.client.log_artifact(run_id, str(path), str(Path(ROWS_ARTIFACT).parent))

        patiently(
            tracker,
            store,
            "the candidate is evaluated but its rows can't be uploaded",
            "another attempt evaluates it again",
        )


def publish(tracker: Tracker, plan: EvaluationRunPlan, summary: EvaluationSummary) -> None:
    """Log the metrics, also on the candidate's logged model, and last of all the summary."""
    values = {
        name: measured.value
        for name, measured in summary.metrics.items()
        if measured.value is not None
    }
    tracker.metrics(values, summary.rows)
    tracker.call(lambda client, run_id: _log_on_model(client, run_id, plan, values, summary.rows))
    tags = with_codes(plan.run.report_key, {TAG_EVALUATION_SUMMARY: _text(summary)})
    # The summary last: whoever sees it finds its code.
    for key in reversed(tags):
        tracker.call(lambda client, run_id, key=key: client.set_tag(run_id, key, tags[key]))


def parameters(plan: EvaluationRunPlan) -> dict[str, Any]:
    """The plan's settings as MLflow parameters."""
    revision = loading.reference(plan.model)[1]
    base = loading.shown(plan.model.base) if plan.model.base else ""
    generation = plan.generation.to_json()
    return prefixed(
        {
            "candidate": plan.candidate,
            "model": loading.shown(plan.model),
            "model.revision": plan.model.revision or revision or "",
            "model.base": base,
            "dataset": plan.dataset.name,
            "dataset.digest": plan.dataset.digest or "",
            "dataset.source": plan.dataset.source or "",
            "dataset.splitDigest": plan.dataset.split_digest or "",
            "split": plan.split,
            "maxRows": plan.max_rows,
            **({"maxLossRows": plan.max_loss_rows} if plan.max_loss_rows is not None else {}),
            "seed": plan.seed,
            "precision": plan.precision,
            **{f"judge.{judge.name}": judge.model for judge in plan.judges or ()},
            **{f"task.{task.name}": task.task for task in plan.tasks or ()},
            **{f"generation.{name}": value for name, value in generation.items()},
        }
    )


def _write(path: Path, rows: list[MeasuredRow], columns: Mapping[str, Column]) -> Path:
    known = {
        name: dict(zip(column.numbers, column.values, strict=True))
        for name, column in columns.items()
    }
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            line = EvaluatedRow(
                row=row.number,
                prompt=row.prompt,
                reference=row.reference,
                answer=row.answer,
                metrics={
                    name: values[row.number]
                    for name, values in known.items()
                    if row.number in values
                },
            )
            stream.write(json.dumps(line.to_json(), ensure_ascii=False) + "\n")
    return path


def _log_on_model(
    client: Any, run_id: str, plan: EvaluationRunPlan, values: Mapping[str, float], step: int
) -> None:
    """Show the metrics on the logged model behind a registered version, where there is one."""
    uri = plan.model.registry_uri
    if uri is None:
        return
    try:
        model_id = _logged_model(client, uri.removeprefix("models:/"))
        if model_id is not None:
            for key, value in values.items():
                client.log_metric(run_id, key, value, step=step, model_id=model_id)
    # The metrics are on the run already.
    except Exception as error:
        log.info("the metrics are not on the logged model of %s: %s", uri, error)


def _logged_model(client: Any, place: str) -> str | None:
    """Id of the logged model behind ``name/version``, ``name@alias`` or an id."""
    if place.startswith(LOGGED_MODEL):
        return place
    name, at, alias = place.partition("@")
    if at:
        found = client.get_model_version_by_alias(name, alias)
    else:
        found = client.get_model_version(*place.rsplit("/", 1))
    source = str(found.source or "").removeprefix("models:/")
    return source if source.startswith(LOGGED_MODEL) else getattr(found, "model_id", None)


def _text(summary: EvaluationSummary) -> str:
    return json.dumps(summary.to_json(), ensure_ascii=False, separators=(",", ":"))
