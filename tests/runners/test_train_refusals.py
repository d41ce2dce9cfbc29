"""What can't be trained is refused with the field and the way out, before time is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune_runner import __main__ as entry
from kubetune_runner.errors import RunError
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.run import run

from tests.runners.conftest import PlanFactory
from tests.runners.evaluation_fixtures import without_numbers

EMPTY = [{"prompt": "p", "completion": ""}]
PREFERENCES = [{"prompt": "p", "chosen": "c", "rejected": "r"}]
LONG = [{"prompt": "much too long " * 40, "completion": "x"}]
CHAT = [{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}]

DPO = {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0}

REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "maxLength above the context": (
        {"training": {"hyperparameters": {"maxLength": 257}}},
        "MaxLengthTooLarge",
        "256",
    ),
    "a module that isn't there": (
        {"training": {"lora": {"targetModules": ["q_proj", "query"]}}},
        "TargetModulesUnknown",
        "k_proj",
    ),
    "an adapter on the output layer": (
        {"training": {"lora": {"targetModules": ["lm_head"]}}},
        "TargetModulesUnknown",
        "all-linear",
    ),
    "a dataset that changed": (
        {"dataset": {"digest": "sha256:0"}},
        "DatasetChanged",
        "tickets",
    ),
    "another split": ({"dataset": {"splitDigest": "sha256:0"}}, "DatasetChanged", "tickets"),
    "an adapter as the base": ({"model": {"type": "adapter"}}, "AdapterAsBase", "base model"),
    "a model that isn't there": ({"model": {"directory": "/no/such"}}, "ModelMissing", "/no/such"),
    "no answers": ({"rows": EMPTY}, "NoTrainableRows", "add answers"),
    "no answer within maxLength": ({"rows": LONG}, "NoTrainableRows", "maxLength"),
    "an argument that trl doesn't know": (
        {"training": {"arguments": {"adam_beta9": 1}}},
        "InvalidArguments",
        "adam_beta9",
    ),
    "an argument of the wrong type": (
        {"training": {"arguments": {"adam_beta2": "high"}}},
        "InvalidArguments",
        "adam_beta2",
    ),
    "a number format without its GPU": (
        {"training": {"hyperparameters": {"precision": "fp16"}}},
        "PrecisionUnsupported",
        "auto",
    ),
    "preference pairs": (
        {"rows": PREFERENCES, "held_out": [], "dataset": {"format": "preference"}},
        "FormatUnsupported",
        "has format preference",
    ),
    "prompts for dpo": (
        {"training": {"objective": "dpo", "dpo": DPO}},
        "FormatUnsupported",
        "it needs preference",
    ),
    "pairs that are all equal": (
        {
            "rows": [{"prompt": "p", "chosen": "c", "rejected": "c"}],
            "held_out": [],
            "dataset": {"format": "preference"},
            "training": {"objective": "dpo", "dpo": DPO},
        },
        "NoUsableRows",
        "preference",
    ),
    "a column that isn't there": (
        {"dataset": {"columns": {"prompt": "question"}}},
        "ColumnMissing",
        "question",
    ),
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow server is there: don't wait for it at the end."""
    monkeypatch.setattr("kubetune_runner.mlflow.closing.CLOSE_SECONDS", 0.0)


@pytest.mark.parametrize("case", REFUSALS)
def test_a_plan_is_refused(make_plan: PlanFactory, case: str) -> None:
    over, reason, words = REFUSALS[case]
    with pytest.raises(RunError) as caught:
        run(make_plan(**over), StopSignal())
    assert (caught.value.reason, caught.value.retryable) == (reason, False)
    assert words in caught.value.message


def test_a_chat_for_a_model_without_a_template_is_refused(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    plan = make_plan(
        rows=CHAT, held_out=[], dataset={"format": "messages"}, model={"directory": str(bare)}
    )
    with pytest.raises(RunError) as caught:
        run(plan, StopSignal())
    assert caught.value.reason == "ChatTemplateMissing"


@pytest.mark.training
def test_a_loss_that_is_no_number_ends_the_run(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path
) -> None:
    broken = without_numbers(tiny_model, tmp_path / "broken")
    with pytest.raises(RunError) as caught:
        run(make_plan(model={"directory": str(broken)}), StopSignal())
    assert (caught.value.reason, caught.value.retryable) == ("LossNotFinite", False)
    assert "learningRate" in caught.value.message
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


HUGE = {"learningRate": 1e38, "maxSteps": 1, "maxGradNorm": 1e30}


@pytest.mark.training
@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("training", [{}, {"method": "full"}, {"objective": "dpo", "dpo": DPO}])
def test_a_result_that_is_no_number_ends_the_run_after_a_finite_loss(
    make_plan: PlanFactory, held_out: bool, training: dict[str, Any]
) -> None:
    over: dict[str, Any] = {"training": {"hyperparameters": HUGE} | training}
    if not held_out:
        over["held_out"] = []
    if "dpo" in training:
        pairs = [{"prompt": f"p{at}", "chosen": f"a{at}", "rejected": "b"} for at in range(8)]
        over |= {"rows": pairs, "dataset": {"format": "preference"}}
        over |= {"held_out": pairs[:2]} if held_out else {}
    with pytest.raises(RunError) as caught:
        run(make_plan(**over), StopSignal())
    assert (caught.value.reason, caught.value.retryable) == ("LossNotFinite", False)
    assert "step 1" in caught.value.message
    assert "learningRate" in caught.value.message


@pytest.mark.training
def test_a_base_model_that_gives_no_number_is_at_fault(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path
) -> None:
    broken = without_numbers(tiny_model, tmp_path / "broken")
    plan = make_plan(model={"directory": str(broken)}, training={"evaluation": {"baseline": True}})
    with pytest.raises(RunError, match="before any training: the model itself") as caught:
        run(plan, StopSignal())
    assert (caught.value.reason, caught.value.retryable) == ("LossNotFinite", False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "PlanInvalid"),
        (json.dumps({"version": 2}), "PlanVersion"),
        (json.dumps({"version": 1, "kind": "train"}), "PlanInvalid"),
        (None, "PlanMissing"),
    ],
)
def test_a_plan_that_can_not_be_read_leaves_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reason: str
) -> None:
    plan, termination = tmp_path / "plan.json", tmp_path / "termination-log"
    if text is not None:
        plan.write_text(text)
    monkeypatch.setenv("KUBETUNE_PLAN", str(plan))
    monkeypatch.setenv("KUBETUNE_TERMINATION_LOG", str(termination))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert entry.main() == ExitCode.REFUSED
    outcome = Outcome.from_message(termination.read_text())
    assert outcome is not None
    assert (outcome.status, outcome.reason) == ("failed", reason)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(status="succeeded", reason="Trained"), 0),
        (Outcome(status="failed", reason="X", retryable=True), 1),
        (Outcome(status="failed", reason="X"), 64),
        (Outcome(status="interrupted", reason="Interrupted", retryable=True), 75),
    ],
)
def test_the_exit_code_tells_whether_to_try_again(outcome: Outcome, code: int) -> None:
    assert entry.exit_code(outcome) == code


def test_tickets_of_the_two_kinds_never_share_product_and_complaint() -> None:
    def pairs(held_out: bool) -> set[str]:
        rows = tickets(250, held_out=held_out)
        return {
            row["completion"] + word
            for row in rows
            for word in ("does not", "broken", "stopped", "slow", "error", "noise")
            if word in row["prompt"]
        }

    assert pairs(True)
    assert not pairs(True) & pairs(False)
    assert tickets(20, seed=1) == tickets(20, seed=1)
    with pytest.raises(ValueError, match="fewer"):
        tickets(10_000)
