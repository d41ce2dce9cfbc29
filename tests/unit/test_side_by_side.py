"""What ``kubetune compare`` prints."""

from __future__ import annotations

from typing import Any

from kubetune.api.run.evaluation_plan import EvaluatedRow
from kubetune.cli.side_by_side import samples, table, verdict

STATUS: Any = {
    "phase": "Succeeded",
    "winner": "tuned",
    "conditions": [
        {"type": "Passed", "status": "True", "message": "tuned meets all thresholds"},
        {"type": "Ready", "status": "True", "message": "passed"},
    ],
    "candidates": [
        {
            "name": "base",
            "phase": "Succeeded",
            "metrics": [
                {"name": "exactMatch", "value": "0.25", "low": "0.1", "high": "0.4"},
                {"name": "loss", "error": "no tokens"},
            ],
        },
        {
            "name": "tuned",
            "phase": "Succeeded",
            "metrics": [{"name": "exactMatch", "value": "0.75", "delta": "+0.5"}],
        },
    ],
}


def row(number: int, answer: str, score: float) -> EvaluatedRow:
    return EvaluatedRow.model_validate(
        {
            "row": number,
            "prompt": "Which queue?\nSay its name.",
            "reference": "billing",
            "answer": answer,
            "metrics": {"exactMatch": score},
        }
    )


def test_the_table_has_a_column_for_each_candidate() -> None:
    assert table(STATUS).splitlines() == [
        "METRIC      base             tuned *",
        "exactMatch  0.25 [0.1, 0.4]  0.75 +0.5",
        "loss        error            -",
        "",
        "base, loss: no tokens",
    ]


def test_the_table_says_how_many_rows_each_candidate_had() -> None:
    candidates = [
        STATUS["candidates"][0] | {"rows": 20, "skipped": 0, "tokens": 90},
        STATUS["candidates"][1] | {"rows": 2, "skipped": 18, "tokens": 9},
    ]
    lines = [line.split() for line in table(STATUS | {"candidates": candidates}).splitlines()]
    assert ["rows", "20", "2"] in lines
    assert ["left", "out", "0", "18"] in lines
    assert ["tokens", "90", "9"] in lines


def test_before_there_are_results_the_phases_are_shown() -> None:
    candidates = [{"name": "base", "phase": "Running"}, {"name": "tuned", "phase": "Pending"}]
    running: Any = {"phase": "Running", "candidates": candidates}
    shown = table(running)
    assert shown.splitlines()[1].split() == ["-", "Running", "Pending"]
    assert verdict({}) == "Pending"


def test_the_verdict_says_why() -> None:
    assert verdict(STATUS) == "Succeeded\nPassed True: tuned meets all thresholds"


def test_answers_to_a_row_stand_below_each_other() -> None:
    answers = {"base": [row(3, "sales", 0.0)], "tuned": [row(3, "billing", 1.0)]}
    assert samples(answers, "exactMatch", None, 80).splitlines() == [
        "row 3",
        "  prompt     Which queue?",
        "             Say its name.",
        "  reference  billing",
        "  base       sales (exactMatch 0)",
        "  tuned      billing (exactMatch 1)",
    ]


def test_blank_answers_take_no_room() -> None:
    shown = samples({"base": [row(3, "\n\n  ", 0.0)]}, "exactMatch", None, 80)
    assert shown.splitlines()[-1] == "  base       (blank) (exactMatch 0)"


def test_a_row_that_one_candidate_lacks_is_shown_as_such() -> None:
    answers = {"base": [row(3, "sales", 0.0), row(4, "x", 0.0)], "tuned": [row(4, "y", 1.0)]}
    shown = samples(answers, "exactMatch", None, 80)
    assert "tuned      (none)" in shown
    assert samples(answers, "exactMatch", 1, 80).count("row ") == 1


def test_long_answers_are_wrapped_and_control_characters_are_not_sent_to_the_terminal() -> None:
    shown = samples({"base": [row(1, "\x1b[2Jword " * 30, 0.0)]}, "exactMatch", None, 60)
    assert max(len(line) for line in shown.splitlines()) <= 60
    assert "\x1b" not in shown
