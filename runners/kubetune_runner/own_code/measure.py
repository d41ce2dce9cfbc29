"""Measures what the user's code has left on the held-out rows, as kubetune's own results are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kubetune.api.run.plan import ModelPlan, RunPlan
from kubetune.api.run.stages import Stage

from kubetune_runner import finite
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import candidate
from kubetune_runner.evaluate.candidate import Candidate
from kubetune_runner.model import loading, precision, quantization
from kubetune_runner.model.starting import StartingModel
from kubetune_runner.own_code.found import Found
from kubetune_runner.stages import UNWATCHED, Report, Watch
from kubetune_runner.text.encoding import EncodedRow
from kubetune_runner.training import losses
from kubetune_runner.training.held_out import Evaluation, evaluate

PROBE = (0, 1, 2, 3)
"""Tokens of every vocabulary."""
LOWER = "have the code stop where its loss is no number, and lower its learning rate"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What is known of the result."""

    dtype: Any
    tuned: Evaluation
    baseline: Evaluation | None


class _Model:
    """What ``evaluate`` asks of a trainer."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[EncodedRow],
        batch: int,
        report: Report,
    ) -> None:
        self.model = model
        self.args = SimpleNamespace(per_device_eval_batch_size=batch)
        self._pad = tokenizer.pad_token_id
        self._rows = sorted(rows, key=lambda row: len(row.input_ids))
        self._report = report
        self.to_measure = len(rows)

    @property
    def loss_rows(self) -> int:
        """How many rows the loss is of."""
        return len(self._rows)

    def held_out_loss(self) -> float:
        """Negative log-likelihood per labelled token, over the rows."""

        def batch(rows: list[EncodedRow]) -> dict[str, Any]:
            return losses.padded(rows, self._pad, self.model.device)

        return losses.token_loss(
            self.model, self._rows, self.args.per_device_eval_batch_size, batch, self.measured
        )

    def measured(self, rows: int) -> None:
        """Tell that so many are done."""
        self._report(rows, self.to_measure)


def measure(
    plan: RunPlan,
    start: StartingModel,
    found: Found,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    with_loss: Sequence[EncodedRow],
    watch: Watch = UNWATCHED,
) -> Measured:
    """Load the result and measure it, and the model before it where that is asked for.

    ``rows`` are held out, ``with_loss`` those of them that the loss is measured on. ``watch`` is
    told what is loaded and measured.

    Raises RunError ResultUnreadable.
    """
    settings = plan.training
    numbers = settings.hyperparameters
    dtype = precision.DTYPES[precision.chosen(numbers.precision, "hyperparameters.precision")]
    quantized = quantization.of_base(settings, dtype)
    context = loading.context_length(start.folder)

    def evaluated(model: Any, stage: Stage) -> Evaluation:
        report = watch.begin(stage, "rows")
        size = numbers.per_device_batch_size
        trainer: Any = _Model(model, tokenizer, with_loss, size, report)
        return evaluate(trainer, tokenizer, rows, settings.evaluation, context)

    baseline = None
    if settings.evaluation.baseline and rows:
        before = Candidate(start.base, start.folder, None, tokenizer, context)
        watch.begin("loading")
        baseline = evaluated(candidate.load(before, dtype, quantized), "baseline")
    watch.begin("loading")
    try:
        if found.kind == "adapter":
            after = Candidate(start.base, start.folder, found.folder, tokenizer, context)
            model = candidate.load(after, dtype, quantized)
        else:
            whole = ModelPlan(
                name=plan.model.name,
                type="base",
                directory=str(found.folder),
                trust_remote_code=plan.model.trust_remote_code,
            )
            model = candidate.load(Candidate(whole, found.folder, None, tokenizer, context), dtype)
    except RunError as error:
        raise RunError(
            "ResultUnreadable", f"the {found.kind} that the code left can't be used: {error}"
        ) from error
    finite.check_weights(
        model, f"the weights of the {found.kind} that the code left", LOWER, trained_only=False
    )
    probe = [row.input_ids for row in rows[:1]] or [PROBE]
    finite.check_scores(model, probe, f"the {found.kind} that the code left", LOWER)
    tuned = evaluated(model, "evaluating")
    finite.check_metrics(tuned.metrics, f"of the {found.kind} that the code left", LOWER)
    if baseline is not None:
        finite.check_metrics(baseline.as_baseline(), "before any training", finite.OTHER_MODEL)
    first = next(iter((model.get_base_model() if found.kind == "adapter" else model).parameters()))
    return Measured(first.dtype, tuned, baseline)
