"""Runs that ran out of memory: one reason, the settings that help, and an end."""

from typing import Any

import pytest
from builders import (
    NOW,
    ago,
    attempt,
    condition_of,
    job,
    model,
    names,
    observed_job,
    ready,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.settings.effective import effective_settings
from kubetune.targets.sentences import out_of_memory
from test_decide_estimate import SMOL

TOLD = Outcome(
    status="failed",
    reason="OutOfMemory",
    message="The GPU's memory is too small: CUDA out of memory.",
    retryable=True,
)
KILLED: JsonObject = {
    "reason": "OutOfMemory",
    "message": out_of_memory("container"),
    "exit_code": 137,
}
GPU: JsonObject = {"resources": {"gpu": 1}}


def ended(
    spec: JsonObject, outcome: Outcome | None, *before: JsonObject, known: bool = True, **run_: Any
) -> Any:
    """The decision when the newest attempt has just failed."""
    number = len(before) + 1
    status = tried(*before, attempt(number, "Running"))
    status["effective"] = effective_settings(spec, None, None, 8192)
    around: JsonObject = {"model": ready(model(), **SMOL)} if known else {}
    failed = run(number, "failed", outcome, **run_)
    return decide(observed_job(job(spec, status=status), runs=[failed], **around), NOW)


@pytest.mark.parametrize(
    ("because", "spec", "outcome", "known", "says"),
    [
        (
            "what saves most, by the estimate",
            {},
            None,
            True,
            ["was killed: set", "gradientCheckpointing: true (saves about", "resources.memory"],
        ),
        (
            "the mildest, when the model's sizes aren't known",
            {},
            None,
            False,
            ["set hyperparameters.gradientCheckpointing: true or hyperparameters.perDeviceBatch"],
        ),
        (
            "on a GPU activations are computed again already",
            GPU,
            TOLD,
            True,
            ["CUDA out of memory: set", "perDeviceBatchSize: 4 with", "GPU with more memory"],
        ),
        (
            "main memory beside a GPU",
            GPU,
            None,
            True,
            ["was killed: raise resources.memory, which is 4Gi"],
        ),
        (
            "the smallest batch already",
            GPU | {"hyperparameters": {"perDeviceBatchSize": 1}},
            TOLD,
            True,
            ["hyperparameters.maxLength:"],
        ),
    ],
)
def test_message_names_what_helps(
    because: str, spec: JsonObject, outcome: Outcome | None, known: bool, says: list[str]
) -> None:
    decision = ended(spec, outcome, known=known, **({} if outcome else KILLED))
    newest = decision.status["attempts"][-1]
    assert newest["reason"] == "OutOfMemory"
    assert all(text in newest["message"] for text in says), (because, newest["message"])


def test_one_attempt_more_and_no_third() -> None:
    first = ended({"backoffLimit": 9}, TOLD)
    assert first.status["phase"] == "Queued"
    assert first.requeue_after is not None
    earlier = attempt(1, "Failed", reason="OutOfMemory", endTime=ago(60))
    second = ended({"backoffLimit": 9}, None, earlier, **KILLED)
    assert second.status["phase"] == "Failed"
    assert condition_of(second.status, "Failed") == ("True", "OutOfMemory")
    assert "twice in a row" in second.status["failure"]["message"]
    assert names(second) == []


def test_another_failure_between_starts_the_count_anew() -> None:
    earlier = [
        attempt(1, "Failed", reason="OutOfMemory", endTime=ago(90)),
        attempt(2, "Failed", reason="RunFailed", endTime=ago(60)),
    ]
    assert ended({"backoffLimit": 9}, TOLD, *earlier).status["phase"] == "Queued"


def test_message_is_written_once() -> None:
    decision = ended({}, None, **KILLED)
    again = decide(
        observed_job(job({}, status=decision.status), runs=[run(1, "failed", **KILLED)]), NOW
    )
    assert again.status is not None
    assert again.status["attempts"] == decision.status["attempts"]
