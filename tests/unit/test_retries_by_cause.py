"""The one table of what follows a failed attempt has every reason of runs and targets."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from builders import NONE_FINISHED, NOW, attempt, job, names, observed_job, run, tried
from kubetune.api.conditions import Reason
from kubetune.api.run.outcome import Outcome
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.retries import CAUSES, Retry, retry_of

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "runners/kubetune_runner"
RAISED = ("RunError", "NotStartedError", "no_progress", "RowsRefusedError")
SUCCESS = {"Trained", "Evaluated", "Inspected", "Rendered"}
IN_TABLE = {str(reason): cause.retry for cause in CAUSES for reason in cause.reasons}

# Of the operator's reasons those that end an attempt, by the modules that say how runs ended.
ENDINGS = (
    "targets/kubernetes/states.py",
    "targets/cml/states.py",
    "decide/fine_tune_job/progress.py",
)
NOT_ENDINGS = {
    # Of runs that haven't ended.
    Reason.ENDING, Reason.IMAGE_UNAVAILABLE, Reason.POD_PENDING, Reason.QUEUED, Reason.STARTED,
    Reason.STATUS_UNKNOWN, Reason.STOPPING, Reason.UNSCHEDULABLE,
}  # fmt: skip


def said(node: ast.expr, path: Path) -> str | None:
    """The text of a reason: as it stands there, or by the name of a constant of the module."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    module = import_module(".".join(path.relative_to(ROOT / "runners").with_suffix("").parts))
    try:
        value = eval(ast.unparse(node), vars(module))
    except Exception:
        # It is told of another error, whose reason stands where that is raised.
        return None
    return value if isinstance(value, str) else None


def told_by_the_runner() -> dict[str, set[str]]:
    """Reason -> what is said of another attempt, wherever the runner gives it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in RUNNER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            options = {item.arg: item.value for item in node.keywords}
            if name == "Outcome" and "reason" in options:
                reason = said(options["reason"], path)
            elif name in RAISED and node.args:
                reason = said(node.args[0], path)
            else:
                continue
            if reason and reason.isalnum() and reason not in SUCCESS:
                again = options.get("retryable")
                found[reason].add(ast.unparse(again) if again else "False")
    return dict(found)


TOLD = told_by_the_runner()


def test_the_runner_is_read() -> None:
    assert len(TOLD) > 70
    assert TOLD["NoProgress"] == {"True"}
    assert TOLD["OutOfMemory"] >= {"True"}


@pytest.mark.parametrize("reason", sorted(TOLD))
def test_every_reason_of_a_run_has_a_row_that_says_the_same(reason: str) -> None:
    words, retry = TOLD[reason], IN_TABLE.get(reason)
    assert retry is not None, f"{reason} has no row in CAUSES"
    if retry == Retry.NEVER:
        assert words == {"False"}
    elif retry in (Retry.COUNTED, Retry.FREE):
        assert words == {"True"}
    elif retry == Retry.AS_TOLD:
        assert words != {"True"}, "a row of its own would say it"
        assert words != {"False"}, "a row of its own would say it"


def endings() -> Iterator[Reason]:
    for module in ENDINGS:
        text = (ROOT / "operator/kubetune" / module).read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Reason":
                yield Reason[node.attr]


def test_every_reason_of_a_target_has_a_row() -> None:
    found = set(endings())
    assert {str(reason) for reason in found - NOT_ENDINGS} <= set(IN_TABLE)
    assert found >= NOT_ENDINGS, "no longer said: take it from the list"


def test_no_row_is_about_nothing() -> None:
    given = set(TOLD) | set(map(str, endings())) | {"OutcomeRefused"}
    assert set(IN_TABLE) <= given
    everything = [reason for cause in CAUSES for reason in cause.reasons]
    assert len(everything) == len(set(everything)), "a reason has one row"


def outcome(reason: str, *, retryable: bool) -> Outcome:
    return Outcome(status="failed", reason=reason, message="as given", retryable=retryable)


@pytest.mark.parametrize("reason", sorted(IN_TABLE))
@pytest.mark.parametrize("retryable", [True, False])
def test_the_operator_does_what_the_table_says(reason: str, retryable: bool) -> None:
    given = job(status=tried(attempt(1, "Running")))
    ended = run(1, "failed", outcome(reason, retryable=retryable))
    status = decide(observed_job(given, runs=[ended]), NOW).status or {}
    expected = {Retry.NEVER: "Failed", Retry.AS_TOLD: "Queued" if retryable else "Failed"}
    assert status["phase"] == expected.get(IN_TABLE[reason], "Queued")


@pytest.mark.parametrize(
    ("told", "retry"),
    [
        (None, Retry.COUNTED),
        (outcome("OfAnotherVersion", retryable=True), Retry.COUNTED),
        (outcome("OfAnotherVersion", retryable=False), Retry.NEVER),
    ],
)
def test_what_nobody_knows_is_as_the_run_says(told: Outcome | None, retry: Retry) -> None:
    assert retry_of("OfAnotherVersion", told) == retry


def test_a_hang_is_repeated() -> None:
    hung = run(1, "failed", outcome("NoProgress", retryable=True), ended_at=NOW.replace(year=2025))
    given = job(status=tried(attempt(1, "Running")))
    decision = decide(observed_job(given, runs=[hung], answers=NONE_FINISHED), NOW)
    assert names(decision) == ["StartRun"]


def test_the_documentation_has_the_table() -> None:
    rows = [
        f"| {cause.name} | {cause.retry} | {', '.join(f'`{reason}`' for reason in cause.reasons)} |"
        for cause in CAUSES
    ]
    text = (ROOT / "docs/status.md").read_text()
    table = "\n".join(["| cause | what follows | reasons |", "|---|---|---|", *rows])
    assert table in text, f"docs/status.md lacks:\n{table}"
