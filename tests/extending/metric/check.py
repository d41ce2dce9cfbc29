"""A metric more: an Evaluation may ask for it, and a run computes it."""

from kubetune.api.kinds.evaluation.spec import EvaluationSpec
from kubetune_runner.evaluate.metrics import MeasuredRow, metric

spec = EvaluationSpec.model_validate(
    {
        "candidates": [{"name": "tuned", "modelRef": {"name": "tuned"}}],
        "datasetRef": {"name": "rows"},
        "metrics": ["firstWord"],
        "thresholds": [{"metric": "firstWord", "min": 0.5}],
    }
)
assert spec.metrics == ["firstWord"]

first_word = metric("firstWord")
rows = [
    MeasuredRow(0, {}, "Which queue?", "billing team", "billing desk"),
    MeasuredRow(1, {}, "Which queue?", "sales", "billing"),
]
sums = [sum(column) for column in zip(*(first_word.describe(row) for row in rows), strict=True)]
assert first_word.score(sums) == 0.5
