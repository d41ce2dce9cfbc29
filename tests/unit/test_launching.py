"""What the processes of one worker come to: who is blamed, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune.api.run.plan import RunPlan
from kubetune_runner.__main__ import exit_code
from kubetune_runner.processes.group import End
from kubetune_runner.processes.launcher import Left, outcome_of


def plan(workers: int, processes: int) -> RunPlan:
    return RunPlan.model_construct(workers=workers, processes=processes)


def said(number: int, reason: str, message: str = "so it is", code: int = 1) -> Left:
    status: Any = {0: "succeeded", 75: "interrupted"}.get(code, "failed")
    outcome = Outcome(status=status, reason=reason, message=message, retryable=code == 1)
    return Left(End(number, code), outcome)


def died(number: int, signal: int, *lines: str, by_us: bool = False) -> Left:
    return Left(End(number, -signal, by_us), None, lines)


LOST = [said(number, "WorkerLost") for number in range(4)]


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ([died(2, 9), LOST[0], LOST[1], LOST[3]], ("RunFailed", "exit code 137 (SIGKILL)")),
        # Whoever only lost it may be gone sooner.
        ([LOST[0], died(2, 9), LOST[1], LOST[3]], ("RunFailed", "exit code 137 (SIGKILL)")),
        ([died(0, 6), died(2, 11, "Fatal"), LOST[1]], ("RunFailed", "(SIGSEGV): Fatal")),
        ([LOST[0], said(2, "OutOfMemory"), LOST[1]], ("OutOfMemory", "so it is")),
        # Those that hang are killed here, which tells nothing.
        ([said(2, "OutOfMemory"), died(0, 9, by_us=True)], ("OutOfMemory", "so it is")),
        ([said(2, "DatasetChanged", code=64), LOST[0]], ("DatasetChanged", "so it is")),
        ([said(0, "Trained", code=0), died(2, 9)], ("RunFailed", "137")),
    ],
)
def test_the_one_to_blame_is_named(left: list[Left], says: tuple[str, str]) -> None:
    found = outcome_of(left, plan(2, 4), 4, short_of_memory=False)
    reason, words = says
    assert (found.status, found.reason) == ("failed", reason)
    assert found.message.startswith("rank 6 of 8: ")
    assert words in found.message


def test_a_killed_process_gives_its_exit_code_and_too_little_memory_its_reason() -> None:
    left = [died(1, 9), LOST[0]]
    found = outcome_of(left, plan(1, 2), 0, short_of_memory=False)
    assert (found.retryable, exit_code(found)) == (True, 137)
    found = outcome_of(left, plan(1, 2), 0, short_of_memory=True)
    assert (found.reason, exit_code(found)) == ("OutOfMemory", 137)
    assert "the system has killed the process" in found.message
    # Only the process knows.
    assert "137" not in found.to_message()


@pytest.mark.parametrize(
    ("left", "reason", "code"),
    [
        ([said(1, "Trained", "rank 1", 0), said(0, "Trained", code=0)], "Trained", 0),
        ([said(n, "DatasetChanged", code=64) for n in (1, 0)], "DatasetChanged", 64),
        # A signal to one worker stops all of them.
        ([said(n, "Interrupted", code=75) for n in (1, 0)], "Interrupted", 75),
        ([LOST[1], LOST[0]], "WorkerLost", 1),
    ],
)
def test_what_all_say_is_said_once(left: list[Left], reason: str, code: ExitCode) -> None:
    found = outcome_of(left, plan(2, 2), 2, short_of_memory=False)
    assert (found.reason, found.message) == (reason, "so it is")
    assert exit_code(found) == code


def test_of_several_that_were_stopped_one_speaks() -> None:
    left = [said(1, "Interrupted", "stopped", 75), LOST[0]]
    found = outcome_of(left, plan(2, 2), 2, short_of_memory=False)
    assert (found.status, found.message) == ("interrupted", "stopped")
