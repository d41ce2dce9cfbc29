"""The batch of each attempt: half of the last one's where that ran out of memory, if asked for.

What an optimizer step learns from stays as declared, exactly: batch times accumulation never
changes. Which batch an attempt has follows from the attempts before it as the status has them, so
that whoever starts it makes the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.conditions import AttemptResult, Reason
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.status_types import AttemptDict, LineageDict
from kubetune.api.run.plan import BatchPlan
from kubetune.api.training.axolotl import AxolotlTrainer
from kubetune.api.training.own_code import ScriptTrainer
from kubetune.api.training.settings import merge
from kubetune.decide.memory.peak import on_gpu
from kubetune.targets.values import KILLED_EXIT_CODE

HALVES = "HalveBatch"
AXOLOTL_BATCH = ("micro_batch_size", "gradient_accumulation_steps", "batch_size")


@dataclass(frozen=True)
class Batch:
    """Rows of a micro-step, and micro-steps of an optimizer step, on one device."""

    size: int
    accumulation: int

    @property
    def rows(self) -> int:
        """What an optimizer step learns from."""
        return self.size * self.accumulation

    def halved(self, smallest: int) -> Batch | None:
        """Half of it, or the next smaller that divides the rows; None when there is none.

        Of those that are ``smallest`` or more; where half is less, the least of them.
        """
        fitting = [size for size in range(smallest, self.size) if self.rows % size == 0]
        if not fitting:
            return None
        size = max((size for size in fitting if 2 * size <= self.size), default=fitting[0])
        return Batch(size, self.rows // size)

    @property
    def in_words(self) -> str:
        """As the fields say it."""
        return f"perDeviceBatchSize {self.size} and gradientAccumulationSteps {self.accumulation}"


def declared_batch(settings: Mapping[str, Any]) -> Batch:
    """What settings in force ask for."""
    numbers = settings["hyperparameters"]
    return Batch(numbers["perDeviceBatchSize"], numbers["gradientAccumulationSteps"])


def batch_of(number: int, attempts: Sequence[AttemptDict], settings: Mapping[str, Any]) -> Batch:
    """What an attempt trains with: as is known of it, else what follows from the one before."""
    before = [item for item in attempts if item["number"] <= number]
    if not before:
        return declared_batch(settings)
    newest = before[-1]
    own = _known(newest, settings)
    if newest["number"] == number or not ran_out(newest):
        return own
    return next_batch(newest, settings) or own


def next_batch(newest: AttemptDict, settings: Mapping[str, Any]) -> Batch | None:
    """The smaller batch that follows an attempt that ran out of memory; None when none does."""
    if settings.get("onOutOfMemory") != HALVES:
        return None
    if newest.get("exitCode") == KILLED_EXIT_CODE and on_gpu(settings):
        # It was main memory, of which the batch takes next to nothing there.
        return None
    return _known(newest, settings).halved(smallest_batch(settings))


def is_smallest(attempt: AttemptDict, settings: Mapping[str, Any]) -> bool:
    """Whether an attempt had the smallest batch."""
    return _known(attempt, settings).halved(smallest_batch(settings)) is None


def halvings(newest: AttemptDict | None, settings: Mapping[str, Any]) -> int:
    """How many failures had a smaller batch as their consequence, up to an attempt."""
    if newest is None or settings.get("onOutOfMemory") != HALVES:
        return 0
    now = _known(newest, settings)
    return sum(1 for batch in _chain(settings) if batch.size > now.size)


def with_batches(
    attempts: Sequence[AttemptDict], known: Sequence[AttemptDict], settings: JsonObject
) -> None:
    """Note in each attempt what it trains with, where that isn't what is declared."""
    fields = {item["number"]: item for item in known}
    for place, attempt in enumerate(attempts):
        if (earlier := fields.get(attempt["number"])) is not None:
            _copy(earlier, attempt)
        else:
            batch = batch_of(attempt["number"], attempts[:place], settings)
            if batch != declared_batch(settings):
                attempt["perDeviceBatchSize"] = batch.size
                attempt["gradientAccumulationSteps"] = batch.accumulation


def note_lineage(lineage: LineageDict, newest: AttemptDict) -> None:
    """Say in the lineage with what the result was trained, where it isn't what is declared.

    Not in its digest: the job asked for the same, and learnt from the same rows at each step.
    """
    size, accumulation = newest.get("perDeviceBatchSize"), newest.get("gradientAccumulationSteps")
    if size and accumulation:
        lineage["perDeviceBatchSize"] = size
        lineage["gradientAccumulationSteps"] = accumulation


def with_batch(settings: JsonObject, batch: Batch) -> JsonObject:
    """The settings of an attempt."""
    numbers = {"perDeviceBatchSize": batch.size, "gradientAccumulationSteps": batch.accumulation}
    return merge(settings, {"hyperparameters": numbers})


def plan_of(batch: Batch, settings: Mapping[str, Any]) -> BatchPlan | None:
    """The plan's part of an attempt; None of one that trains with what is declared."""
    if batch == declared_batch(settings):
        return None
    return BatchPlan(
        per_device_batch_size=batch.size, gradient_accumulation_steps=batch.accumulation
    )


def ran_out(attempt: AttemptDict) -> bool:
    """Whether an attempt ended since it had too little memory."""
    failed = attempt["result"] == AttemptResult.FAILED
    return failed and attempt.get("reason") == Reason.OUT_OF_MEMORY


def smallest_batch(settings: Mapping[str, Any]) -> int:
    """The smallest batch that can train."""
    # It compares the rows of a batch.
    return 2 if (settings.get("kto") or {}).get("lossType") == "kto" else 1


def halving_problem(
    trainer: ScriptTrainer | AxolotlTrainer | None, config: Mapping[str, Any], settings: JsonObject
) -> str:
    """Why the batch can't be halved, else empty; ``config`` is axolotl's own."""
    if isinstance(trainer, ScriptTrainer):
        return "what batches a script makes is its own"
    named = next((key for key in AXOLOTL_BATCH if key in config), None)
    if named:
        return (
            f"axolotl's configuration says {named} itself; give the batch in"
            " hyperparameters.perDeviceBatchSize and gradientAccumulationSteps instead"
        )
    batch = declared_batch(settings)
    if batch.halved(smallest_batch(settings)) is None:
        return f"hyperparameters.perDeviceBatchSize {batch.size} is the smallest already"
    return ""


def settle_policy(
    spec: FineTuneJobSpec, settings: JsonObject, problem: str
) -> tuple[JsonObject, str]:
    """The settings with what acts, and a sentence where the job itself asks for what can't.

    A profile serves jobs of several kinds: its HalveBatch is Retry where it could do nothing.
    """
    if not problem or settings["onOutOfMemory"] != HALVES:
        return settings, ""
    # What auto has chosen is nothing that the job asks for.
    chosen = "perDeviceBatchSize" in (settings.get("automatic") or {})
    if spec.on_out_of_memory == HALVES and not chosen:
        return settings, f"onOutOfMemory HalveBatch has no effect: {problem}, or use Retry or Fail"
    return settings | {"onOutOfMemory": "Retry"}, ""


def _known(attempt: AttemptDict, settings: Mapping[str, Any]) -> Batch:
    """As the status has it, unless what is declared has changed since (with the workers)."""
    declared = declared_batch(settings)
    size, accumulation = attempt.get("perDeviceBatchSize"), attempt.get("gradientAccumulationSteps")
    if not size or not accumulation or size * accumulation != declared.rows:
        return declared
    return Batch(size, accumulation)


def _chain(settings: Mapping[str, Any]) -> Iterator[Batch]:
    """All batches, from the declared to the smallest."""
    batch: Batch | None = declared_batch(settings)
    while batch is not None:
        yield batch
        batch = batch.halved(smallest_batch(settings))


def _copy(earlier: AttemptDict, attempt: AttemptDict) -> None:
    size, accumulation = earlier.get("perDeviceBatchSize"), earlier.get("gradientAccumulationSteps")
    if size and accumulation:
        attempt["perDeviceBatchSize"] = size
        attempt["gradientAccumulationSteps"] = accumulation
