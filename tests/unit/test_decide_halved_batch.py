"""onOutOfMemory: what follows an attempt that ran out of memory, and with which batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NONE_FINISHED,
    NOW,
    TRAINED,
    ago,
    assert_fits,
    attempt,
    condition_of,
    job,
    names,
    observed_job,
    resource,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import RunPlan
from kubetune.decide.decision import Register, StartRun
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.memory.batch import Batch, batch_of, halvings
from kubetune.decide.settings.effective import effective_settings

TOLD = Outcome(status="failed", reason="OutOfMemory", message="too small", retryable=True)
OTHER = Outcome(status="failed", reason="HubUnreachable", message="no answer", retryable=True)
HALVES: JsonObject = {"onOutOfMemory": "HalveBatch"}
KILLED: JsonObject = {"reason": "OutOfMemory", "message": "was killed", "exit_code": 137}


def ran_out(number: int, size: int | None = None, rows: int = 8, **fields: Any) -> JsonObject:
    """An attempt in status, with its batch where that isn't what is declared."""
    batch: JsonObject = {}
    if size:
        batch = {"perDeviceBatchSize": size, "gradientAccumulationSteps": rows // size}
    end = {"reason": "OutOfMemory", "endTime": ago(3600)}
    return attempt(number, "Failed", **(end | batch | fields))


def effective(spec: JsonObject) -> JsonObject:
    return effective_settings(spec, None, None, 2048)


def observed(spec: JsonObject, *attempts: JsonObject, runs: Any = (), **around: Any) -> Any:
    status = tried(*attempts, effective=effective(spec), lineage={"digest": "sha256:1"})
    given = {"answers": NONE_FINISHED} | around
    return observed_job(job(spec, status=status), runs=runs, **given)


def step(spec: JsonObject, *attempts: JsonObject, **around: Any) -> Any:
    decision = decide(observed(spec, *attempts, **around), NOW)
    assert_fits("FineTuneJob", decision.status or {})
    return decision


def plan_in(decision: Any) -> RunPlan:
    (start,) = (action for action in decision.actions if isinstance(action, StartRun))
    # As the run takes it from its environment.
    plan = RunPlan.model_validate(start.request.plan)
    return plan.model_copy(update={"batch": start.request.batch})


def batch_in(plan: RunPlan) -> tuple[int, int]:
    numbers = plan.in_force.training.hyperparameters
    return numbers.per_device_batch_size, numbers.gradient_accumulation_steps


@pytest.mark.parametrize(
    ("batch", "smallest", "halved"),
    [
        ((8, 1), 1, (4, 2)),
        ((4, 2), 1, (2, 4)),
        ((2, 4), 1, (1, 8)),
        ((1, 8), 1, None),
        ((3, 2), 1, (1, 6)),
        ((5, 2), 1, (2, 5)),
        ((6, 1), 1, (3, 2)),
        ((7, 1), 1, (1, 7)),
        ((12, 5), 1, (6, 10)),
        ((3, 2), 2, (2, 3)),
        ((4, 1), 2, (2, 2)),
        ((3, 1), 2, None),
        ((2, 9), 2, None),
        ((65536, 65536), 1, (32768, 131072)),
    ],
)
def test_half_a_batch_leaves_the_rows_of_a_step(
    batch: tuple[int, int], smallest: int, halved: tuple[int, int] | None
) -> None:
    now = Batch(*batch)
    found = now.halved(smallest)
    assert found == (Batch(*halved) if halved else None)
    assert found is None or found.rows == now.rows


def test_each_attempt_has_half_of_the_last_one_until_none_is_left() -> None:
    known: list[JsonObject] = []
    failed: Any = None
    for number, batch in enumerate([(8, 1), (4, 2), (2, 4), (1, 8)], 1):
        decision = step(HALVES, *known)
        plan = plan_in(decision)
        assert batch_in(plan) == batch
        assert plan.model_copy(update={"batch": None}) == plan_in(step(HALVES)), "one for all"
        assert (plan.batch is None) == (number == 1)
        # What is declared, and what the job is to make, stay as they are.
        assert plan.training.hyperparameters.per_device_batch_size == 8
        assert plan.lineage_digest == plan_in(step(HALVES)).lineage_digest
        # Seen to run, and then to fail.
        running = step(HALVES, *known, runs=[run(number, "running")]).status
        failed = step(HALVES, *running["attempts"], runs=[run(number, "failed", TOLD)])
        newest = failed.status["attempts"][-1]
        told = newest.get("perDeviceBatchSize", 8), newest.get("gradientAccumulationSteps", 1)
        assert told == batch
        known = [*known, newest | {"endTime": ago(3600)}]
    assert failed.status["phase"] == "Failed"
    assert condition_of(failed.status, "Failed") == ("True", "OutOfMemory")
    assert "the smallest batch that can train" in failed.status["failure"]["message"]
    assert "StartRun" not in names(failed)


def test_the_wait_says_what_comes_next() -> None:
    decision = step(HALVES, attempt(1, "Running"), runs=[run(1, "failed", TOLD)])
    (running,) = (c for c in decision.status["conditions"] if c["type"] == "Running")
    assert "with perDeviceBatchSize 4 and gradientAccumulationSteps 2" in running["message"]


def test_the_advice_is_about_the_batch_that_was_tried() -> None:
    decision = step(
        HALVES,
        ran_out(1),
        attempt(2, "Running", perDeviceBatchSize=4, gradientAccumulationSteps=2),
        runs=[run(2, "failed", TOLD)],
    )
    said = decision.status["attempts"][-1]["message"]
    assert "perDeviceBatchSize: 2 with gradientAccumulationSteps: 4" in said


@pytest.mark.parametrize("limit", [0, 3])
def test_halved_attempts_cost_nothing_of_the_limit_and_others_do(limit: int) -> None:
    spec = HALVES | {"backoffLimit": limit}
    known = [ran_out(1), ran_out(2, 4), ran_out(3, 2)]
    assert batch_in(plan_in(step(spec, *known))) == (1, 8)
    others = [
        attempt(4 + more, "Failed", reason="RunFailed", endTime=ago(3600)) | BATCH_OF_ONE
        for more in range(limit)
    ]
    newest = attempt(4 + limit, "Running", **BATCH_OF_ONE)
    over = step(spec, *known, *others, newest, runs=[run(4 + limit, "failed", OTHER)])
    assert over.status["phase"] == "Failed"
    assert (
        f"{limit + 1} failed attempts, spec.backoffLimit is {limit}"
        in (over.status["failure"]["message"])
    )
    if others:
        assert batch_in(plan_in(step(spec, *known, *others))) == (1, 8), "it stays small"


BATCH_OF_ONE: JsonObject = {"perDeviceBatchSize": 1, "gradientAccumulationSteps": 8}


def test_a_halved_attempt_follows_after_the_first_pause() -> None:
    known = [ran_out(1), ran_out(2, 4)]
    running = attempt(3, "Running", perDeviceBatchSize=2, gradientAccumulationSteps=4)
    third = step(HALVES, *known, running, runs=[run(3, "failed", TOLD)])
    first = step(HALVES, attempt(1, "Running"), runs=[run(1, "failed", TOLD)])
    assert third.requeue_after == first.requeue_after == 10


def test_fail_ends_it_at_once() -> None:
    decision = step(
        {"onOutOfMemory": "Fail"}, attempt(1, "Running"), runs=[run(1, "failed", None, **KILLED)]
    )
    assert decision.status["phase"] == "Failed"
    assert "onOutOfMemory is Fail" in decision.status["failure"]["message"]


def test_an_eviction_keeps_the_batch() -> None:
    known = [ran_out(1), attempt(2, "Preempted", reason="Disrupted", endTime=ago(3600)) | FOUR]
    assert batch_in(plan_in(step(HALVES, *known))) == (4, 2)


FOUR: JsonObject = {"perDeviceBatchSize": 4, "gradientAccumulationSteps": 2}


def test_long_gone_attempts_are_not_needed() -> None:
    """Only the newest ten are in the status."""
    known = [attempt(number, "Preempted", endTime=ago(3600)) | FOUR for number in range(5, 15)]
    assert batch_in(plan_in(step(HALVES, *known))) == (4, 2)


def test_main_memory_beside_a_gpu_is_nothing_that_a_smaller_batch_saves() -> None:
    spec = HALVES | {"resources": {"gpu": 1}}
    first = step(spec, ran_out(1, exitCode=137))
    assert batch_in(plan_in(first)) == (8, 1)
    again = step(
        spec,
        ran_out(1, exitCode=137),
        attempt(2, "Running"),
        runs=[run(2, "failed", None, **KILLED)],
    )
    assert again.status["phase"] == "Failed"
    assert "twice in a row, with the same settings" in again.status["failure"]["message"]
    assert batch_in(plan_in(step(spec, ran_out(1, exitCode=1)))) == (4, 2), "the GPU's own"


def test_what_ran_out_is_written_before_the_next_one_starts() -> None:
    """So that whoever starts it, and whatever became of the last Job, makes the same plan."""
    ended = replace(run(1, "failed", TOLD), ended_at=NOW.replace(year=2025))
    unseen = step(HALVES, attempt(1, "Running"), runs=[ended])
    assert "StartRun" not in names(unseen)
    assert unseen.status["attempts"][0]["reason"] == "OutOfMemory"
    assert unseen.requeue_after == 0
    after = decide(observed(HALVES, *unseen.status["attempts"], runs=[ended]), NOW)
    gone = decide(observed(HALVES, *unseen.status["attempts"]), NOW)
    assert batch_in(plan_in(after)) == batch_in(plan_in(gone)) == (4, 2)


def test_a_plan_that_is_made_again_has_the_batch_of_its_attempt() -> None:
    inputs = resolve(observed(HALVES))
    assert isinstance(inputs, Inputs)
    known = [ran_out(1), attempt(2, "Running") | FOUR]
    given = observed(HALVES, *known, runs=[run(2, "pending", lacks_plan=True)])
    given.job.status["lineage"] = inputs.lineage
    assert batch_in(plan_in(decide(given, NOW))) == (4, 2)


def test_the_result_says_with_what_it_was_trained() -> None:
    spec = HALVES | {"output": {"registry": {}}}
    known = [ran_out(1), attempt(2, "Running") | FOUR]
    decision = step(spec, *known, runs=[run(2, "succeeded", TRAINED)])
    lineage = decision.status["lineage"]
    assert lineage == {"digest": "sha256:1"} | FOUR
    (register,) = (
        action
        for action in step(spec, *known, runs=[run(2, "succeeded", TRAINED)]).actions
        if isinstance(action, Register)
    )
    tags = register.registration.tags
    assert tags["kubetune.perDeviceBatchSize"] == "4"
    assert tags["kubetune.gradientAccumulationSteps"] == "2"
    assert tags["kubetune.lineage_digest"] == "sha256:1"


def test_other_workers_start_from_what_is_declared_then() -> None:
    """The profile may say another batch by then: what was halved is of another one."""
    settings = effective({"hyperparameters": {"perDeviceBatchSize": 6}} | HALVES)
    before: Any = attempt(1, "Stopped") | FOUR
    assert batch_of(2, [before], settings) == Batch(6, 1)
    assert halvings(before, settings) == 0


@pytest.mark.parametrize(
    ("house", "own", "acts"),
    [
        ("HalveBatch", {}, "HalveBatch"),
        ("HalveBatch", {"onOutOfMemory": "Fail"}, "Fail"),
        ("HalveBatch", {"hyperparameters": {"perDeviceBatchSize": 1}}, "Retry"),
        ("HalveBatch", {"trainer": {"axolotl": {"config": {"micro_batch_size": 2}}}}, "Retry"),
        ("HalveBatch", {"trainer": {"axolotl": {"config": {"optimizer": "lion"}}}}, "HalveBatch"),
        (None, {}, "Retry"),
    ],
)
def test_a_profile_asks_for_it_where_it_can_act(
    house: str | None, own: JsonObject, acts: str
) -> None:
    profile = resource("TuningProfile", "house", {"onOutOfMemory": house} if house else {})
    inputs = resolve(observed_job(job(own), profile=profile))
    assert isinstance(inputs, Inputs), inputs
    assert inputs.settings["onOutOfMemory"] == acts
