"""Kind inspectDataset: rows, columns, digests, lengths, and rows that repeat or leak."""

from __future__ import annotations

from typing import Any

from kubetune.api.kinds.inspection import MAX_COLUMNS, MAX_PROBLEMS, DatasetInspection, Problem
from kubetune.api.run.plan import DatasetPlan, ModelPlan, TrackingPlan

from kubetune_runner.data import Row
from kubetune_runner.data.reading import Reading, RowsRefusedError, read
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.checks import CHARACTERS_PER_TOKEN, LONG_TOKENS, RowCheck
from kubetune_runner.inspection.lengths import Lengths
from kubetune_runner.inspection.tokens import KnownTokenizer
from kubetune_runner.text.shown import Render


def inspect_dataset(
    plan: DatasetPlan,
    token: str | None,
    model: ModelPlan | None,
    tracking: TrackingPlan | None,
    report: dict[str, Any],
) -> DatasetInspection:
    """Read all rows once. ``report`` receives all columns and problems.

    Raises RunError as ``data.load`` does. A tokenizer that can't be read is a problem of the
    report, not a failure: the dataset is usable without.
    """
    known, unreadable = _tokenizer(model, tracking)
    render = _renderer(plan, model, tracking)
    lengths = Lengths(plan, known.tokenizer if known else None, model.name if model else None)
    check = RowCheck(plan, render, known)

    def visit(row: Row) -> None:
        lengths.add(row)
        check.add(row)

    reading = read(plan, token, keep_rows=0, visit=visit)
    _check_training(plan, reading, reading.trainable)
    if unreadable:
        reading.findings.note(Problem(message=unreadable))
    limit = (known.context or LONG_TOKENS) if known else LONG_TOKENS * CHARACTERS_PER_TOKEN
    checks = check.finish(reading, lengths.each(), limit, lengths.unit)
    _check_training(plan, reading, checks.trainable_rows or 0)
    problems = [problem.to_json() for problem in reading.findings.all()]
    columns = [column.to_json() for column in reading.columns]
    report.update(columns=columns, problems=problems)
    fields: dict[str, Any] = {
        "digest": reading.digest,
        "splitDigest": reading.split_digest,
        "rows": {"train": reading.train_count, "evaluation": reading.evaluation_count},
        "columns": columns[:MAX_COLUMNS],
        "columnsTruncated": len(columns) > MAX_COLUMNS,
        "lengths": lengths.histogram().to_json(),
        "checks": checks.to_json(),
        "problems": problems[:MAX_PROBLEMS],
        "problemCount": reading.findings.count,
    }
    if reading.revision:
        fields["revision"] = reading.revision
    return DatasetInspection.model_validate(fields)


def _check_training(plan: DatasetPlan, reading: Reading, trainable: int) -> None:
    """Refuse rows none of which can be used for training.

    Those of promptCompletion may become text by a PromptTemplate.
    """
    if trainable or plan.format == "promptCompletion":
        return
    why = "only some that are held out"
    if reading.trainable:
        pairs = plan.format == "preference"
        why = (
            "since training sees both answers of each pair alike"
            if pairs
            else "since the tokenizer finds nothing to learn in them"
        )
    refusal = RunError(
        "NoUsableRows",
        f"none of the {reading.train_count:,} rows that train fits format {plan.format}, {why}; see"
        " the problems",
    )
    raise RowsRefusedError(refusal, reading.findings, reading.columns)


def _renderer(
    plan: DatasetPlan, model: ModelPlan | None, tracking: TrackingPlan | None
) -> Render | None:
    """The chat template of the model whose tokenizer counts; None where it can't be read."""
    if model is None or plan.format in ("promptCompletion", "text"):
        return None
    from kubetune_runner.inspection.model import read_chat_template

    try:
        return read_chat_template(model, tracking)
    except RunError as error:
        if error.retryable:
            raise
        return None


def _tokenizer(
    model: ModelPlan | None, tracking: TrackingPlan | None
) -> tuple[KnownTokenizer | None, str | None]:
    """The model's tokenizer, or why tokens can't be counted."""
    if model is None:
        return None, None
    from kubetune_runner.inspection.model import read_tokenizer

    try:
        return read_tokenizer(model, tracking), None
    except RunError as error:
        if error.retryable:
            raise
        return None, f"tokens are not counted: {error.message}"[:512]
