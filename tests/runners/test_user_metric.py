"""A user's metric: whatever its function does becomes values or an error in the table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kubetune_runner.evaluate import user_metric
from kubetune_runner.evaluate.metrics import MeasuredRow

ROWS = [
    MeasuredRow(number, {"weight": number}, "p", reference, answer)
    for number, reference, answer in ((3, "yes", "yes"), (7, "no", "yes"), (9, None, "no"))
]
HEAD = "def metric(prediction, reference, row):\n    "


def measured(source: str, timeout_seconds: float = 60) -> user_metric.Column:
    return user_metric.measure("own", source, ROWS, 42, timeout_seconds=timeout_seconds)


def test_values_come_from_texts_and_columns() -> None:
    source = (
        "from dataclasses import dataclass\nimport sys\n"
        "@dataclass\nclass Answer:\n    text: str\n"
        "def metric(prediction: str, reference: str | None, row: dict) -> float:\n"
        "    print('{\"value\": 5}', flush=True)\n"
        "    row['weight'] += 1\n"
        "    return (Answer(prediction).text == reference) * row['weight'] + (reference is None)\n"
    )
    column = measured(source)
    assert column.values == [4.0, 0.0, 1.0]
    assert column.measured.value == pytest.approx(5 / 3, rel=1e-5)
    assert column.measured.low == 0.0
    assert column.measured.high == 4.0


def test_a_function_finds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "KUBETUNE_JUDGE_KEY_0", "CDSW_APIV2_KEY"):
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.setenv("LISTED", "a-secret")
    monkeypatch.setenv("KUBETUNE_CODE_VARIABLES", "LISTED")
    source = f"import os\n{HEAD}return sum('a-secret' in value for value in os.environ.values())"
    assert measured(source).values == [1.0, 1.0, 1.0]


FAILURES = {
    "raises": (
        HEAD + "return {'yes': 1.0}[prediction]",
        "own: row 9: it raised KeyError in line 2: 'no'",
    ),
    "NaN": (HEAD + "return float('nan')", "own: row 3: it returned nan, not a finite number"),
    "infinite": (HEAD + "return 1e999", "own: row 3: it returned inf, not a finite number"),
    "nothing": (HEAD + "pass", "own: row 3: it returned NoneType, not a number"),
    "text": (HEAD + "return '1'", "own: row 3: it returned str, not a number"),
    "exits": (HEAD + "raise SystemExit(0)", "own: row 3: it raised SystemExit in line 2: 0"),
    "dies": (HEAD + "import os; os._exit(4)", "own: row 3: its process ended with exit code 4"),
    "is killed": (
        HEAD + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "own: row 3: its process ended by signal 9",
    ),
    "takes other arguments": (
        "def metric(prediction): return 1.0",
        "own: row 3: it raised TypeError: metric() got an unexpected keyword argument 'reference'",
    ),
    "isn't there": (
        "def metrics(): pass",
        "own: its text: the text defines no function metric(prediction, reference, row)",
    ),
    "isn't Python": ("def metric(:", "own: its text: it raised SyntaxError: invalid syntax"),
    "imports what isn't there": (
        "import no_such_package",
        "own: its text: it raised ModuleNotFoundError in line 1: No module named 'no_such_package'",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_function_that_fails_is_an_error_with_the_row(case: str) -> None:
    source, error = FAILURES[case]
    column = measured(source)
    assert column.values == []
    assert column.measured.value is None
    assert (column.measured.error or "").startswith(error)


def test_a_function_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """What it started holds the end of a pipe, so the pipe's end is seen when that is gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    source = (
        "import os, time\n"
        f"writer = os.open({str(pipe)!r}, os.O_WRONLY)\n"
        "os.write(writer, b'x')\n"
        "if os.fork() == 0:\n    time.sleep(600)\n"
    )
    column = measured(source + HEAD + "time.sleep(600)", timeout_seconds=0.5)
    assert column.measured.error == "own: row 3: it took longer than 0.5 seconds"
    os.set_blocking(reader, True)
    assert os.read(reader, 9) == b"x"
    assert os.read(reader, 9) == b""
    os.close(reader)


def test_a_row_without_an_answer_is_an_error() -> None:
    row = MeasuredRow(0, {"text": "t"}, None, None)
    column = user_metric.measure("own", HEAD + "return 1.0", [row], 42, timeout_seconds=1)
    assert "row 0 lacks a generated answer" in (column.measured.error or "")
