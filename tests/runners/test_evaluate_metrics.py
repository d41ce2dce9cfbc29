"""Metrics of evaluations as tables: values, bounds, intervals, and errors in their place."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.api.metrics.metric import MAX_METRICS, MetricName
from kubetune.api.run.evaluation_plan import EvaluationSummary, MeasuredValue
from kubetune_runner import scores
from kubetune_runner.evaluate import report
from kubetune_runner.evaluate.metrics import MeasuredRow
from kubetune_runner.evaluate.table import measure

NAMES: tuple[MetricName, ...] = get_args(MetricName)
OF_TEXTS: tuple[MetricName, ...] = ("exactMatch", "tokenF1", "rouge1", "rougeL", "bleu", "chrf")


def row(number: int, answer: str | None, reference: str | None, **over: Any) -> MeasuredRow:
    given: dict[str, Any] = {"loss": 2.0, "labels": 2, "tokens": 3, "seconds": 0.5} | over
    return MeasuredRow(number, {}, "p", reference, answer, **given)


@pytest.mark.parametrize(
    ("name", "answer", "reference", "value"),
    [
        ("exactMatch", " yes\n", "yes", 1),
        ("exactMatch", "yes", "no", 0),
        ("exactMatch", "", "", 1),
        ("tokenF1", "a b", "b c", 0.5),
        ("tokenF1", "", "b", 0),
        ("rouge1", "the cat sat", "the cat", 0.8),
        ("rouge1", "The CAT!", "the cat", 1),
        ("rouge1", "кот спит", "кот", 2 / 3),
        ("rouge1", "猫が寝る", "猫が鳴く", 0.5),
        # The consonants of these are equal, and only they were looked at.
        ("rouge1", "किताब", "कातिब", 0),
        ("rouge1", "मैं घर में हूँ", "मैं घर में हूँ", 1),
        ("rouge1", "নদী", "নদ", 0),
        ("rouge1", "שָׁלוֹם", "שֶׁלוֹם", 0),
        ("rouge1", "caf\u00e9", "cafe\u0301", 1),
        ("rouge1", "می\u200cخواهم", "میخواهم", 0),
        ("rouge1", "สวัสดี", "สวัสดา", 2 / 3),
        ("rouge1", "👍🏽 !", "👍🏽 ?", 0.5),
        ("rouge1", "+", "+", 1),
        ("rouge1", "+", "plus", 0),
        ("exactMatch", "caf\u00e9", "cafe\u0301", 1),
        ("tokenF1", "un caf\u00e9", "un cafe\u0301", 1),
        ("chrf", "caf\u00e9", "cafe\u0301", 100),
        ("jsonFields", '{"caf\u00e9": "\u00e9"}', '{"cafe\u0301": "e\u0301"}', 1),
        ("rougeL", "cat the", "the cat", 0.5),
        ("rougeL", "", "the cat", 0),
        ("bleu", "the cat sat on the mat", "the cat sat on the mat", 100),
        ("bleu", "dog", "the cat sat on the mat", 0),
        ("bleu", "Rome", "Rome", 100),
        ("bleu", "New York", "New York", 100),
        ("bleu", "我喜欢猫", "我喜欢猫", 100),
        ("bleu", "猫", "猫", 100),
        ("bleu", "สวัสดี", "สวัสดี", 100),
        ("bleu", "我喜欢猫", "你讨厌狗", 0),
        ("chrf", "猫", "猫", 100),
        ("chrf", "cat", "cat", 100),
        ("chrf", "", "cat", 0),
        ("jsonFields", '{"a": 1, "b": "x"}', '{"b": "y", "a": 1.0}', 0.5),
        ("jsonFields", '{"a": true}', '{"a": 1}', 0),
        ("jsonFields", '{"a": {"b": [1, null]}, "more": 1}', '{"a": {"b": [1, null]}}', 1),
        ("jsonFields", "no JSON", '{"a": 1}', 0),
        ("jsonFields", '{"a": NaN}', '{"a": 1}', 0),
        ("jsonFields", "[" * 100_000, '{"a": 1}', 0),
        ("jsonFields", '["a"]', '{"a": 1}', 0),
        ("jsonFields", "{}", "{}", 1),
    ],
)
def test_a_text_has_the_score(name: MetricName, answer: str, reference: str, value: float) -> None:
    column = measure(name, [row(0, answer, reference)], 42)
    assert column.values == [pytest.approx(value)]
    assert column.measured.value == pytest.approx(value, rel=1e-5)


def test_sums_over_tokens_and_rows_make_the_other_metrics() -> None:
    rows = [
        row(0, "a", "a", loss=1.0, labels=1, tokens=2, seconds=1.0, size=3),
        row(1, "b", "b", loss=9.0, labels=4, tokens=6, seconds=3.0, size=5),
    ]
    names: tuple[MetricName, ...] = ("loss", "perplexity", "bitsPerByte", "length", "latency")
    found = {name: measure(name, rows, 1) for name in names}
    assert {name: column.measured.value for name, column in found.items()} == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2.0), rel=1e-5),
        "bitsPerByte": pytest.approx(10 / 8 / math.log(2), rel=1e-5),
        "length": 4.0,
        "latency": 2.0,
    }
    assert found["loss"].values == [1.0, 2.25]


def test_corpus_scores_are_those_of_sacrebleu() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    answers = ["the cat sat on a mat", "it rains in Spain today", "so it goes on"]
    references = ["the cat sat on the mat", "it rains in Spain", "so it goes"]
    rows = [row(n, *texts) for n, texts in enumerate(zip(answers, references, strict=True))]
    scorers: tuple[tuple[MetricName, Any], ...] = (("bleu", BLEU()), ("chrf", CHRF()))
    for name, library in scorers:
        expected = library.corpus_score(answers, [references]).score
        assert measure(name, rows, 42).measured.value == pytest.approx(expected, rel=1e-5)


TEXTS = st.text(max_size=30)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), st.sampled_from(OF_TEXTS))
def test_scores_stay_in_their_bounds_and_intervals_hold_them(
    pairs: list[tuple[str, str]], name: MetricName
) -> None:
    rows = [row(number, *pair) for number, pair in enumerate(pairs)]
    column = measure(name, rows, 42)
    top = 100.001 if name in ("bleu", "chrf") else 1
    measured = column.measured
    assert measured.error is None
    assert measured.value is not None
    assert measured.low is not None
    assert measured.high is not None
    assert 0 <= measured.low <= measured.value <= measured.high <= top
    assert len(column.values) == len(rows)
    assert all(0 <= value <= top for value in column.values)
    assert measure(name, rows, 42) == column


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_any_answer_has_a_share_of_json_fields(answer: str) -> None:
    assert 0 <= scores.json_fields(answer, '{"a": 1}') <= 1
    assert scores.json_fields(json.dumps({"a": answer}), json.dumps({"a": answer})) == 1


def test_an_interval_is_as_wide_as_the_binomial_one() -> None:
    rows = [row(n, "yes" if n % 2 else "no", "yes") for n in range(400)]
    measured = measure("exactMatch", rows, 7).measured
    width = 1.96 * math.sqrt(0.25 / 400)
    assert measured.low == pytest.approx(0.5 - width, abs=0.01)
    assert measured.high == pytest.approx(0.5 + width, abs=0.01)


PLAIN = MeasuredRow(4, {}, None, None, None, loss=1.0, labels=2)


@pytest.mark.parametrize("name", NAMES)
def test_plain_text_has_a_loss_and_errors_for_all_else(name: MetricName) -> None:
    measured = measure(name, [PLAIN], 42).measured
    if name in ("loss", "perplexity", "bitsPerByte"):
        assert measured.value is not None
    else:
        assert (measured.error or "").startswith(f"{name}: row 4 lacks")


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("loss", row(5, "a", "a", loss=math.nan), "loss: row 5: its value is nan"),
        ("perplexity", row(5, "a", "a", loss=math.nan), "perplexity: row 5: its value is nan"),
        ("loss", row(5, "a", "a", loss=None), "loss: row 5 lacks the row's loss"),
        ("tokenF1", row(5, "a", None), "tokenF1: row 5 lacks a prompt and a reference"),
        ("jsonFields", row(5, "{}", "plain"), "jsonFields: row 5: the reference is not a JSON"),
        ("jsonFields", row(5, "{}", "[1]"), "jsonFields: row 5: the reference is not a JSON"),
    ],
)
def test_one_bad_row_is_an_error_that_names_it(
    name: MetricName, bad: MeasuredRow, words: str
) -> None:
    column = measure(name, [row(0, '{"a": 1}', '{"a": 1}'), bad], 42)
    assert column.values == []
    assert (column.measured.error or "").startswith(words)


def test_no_rows_are_an_error() -> None:
    assert "no row is left" in (measure("length", [], 42).measured.error or "")


def test_a_missing_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics.bleu", None)
    error = measure("bleu", [row(0, "a", "a")], 42).measured.error or ""
    assert error.startswith("bleu: needs the package sacrebleu")


@pytest.mark.parametrize("letter", ["x", "語"])
def test_a_summary_of_long_errors_fits(letter: str) -> None:
    import random

    chance = random.Random(1)
    metrics = {
        f"m{n}": MeasuredValue(
            error="".join(chr(ord(letter) + chance.randrange(60)) for _ in range(200))
        )
        for n in range(MAX_METRICS)
    }
    summary = EvaluationSummary(
        metrics=metrics, rows=1, rows_digest="sha256:0", run_id="r", experiment_id="e"
    )
    fitted = report.fitted(summary)
    report.outcome(fitted).to_message()
    assert list(fitted.metrics) == list(metrics)
    assert all(measured.error for measured in fitted.metrics.values())
