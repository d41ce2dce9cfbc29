"""What ``auto`` comes to: checkpointing of activations and the batch, by the estimate of memory.

An optimizer step learns from as many rows either way, and what is computed again is the same, so
the choice changes how fast a training is and nothing in its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import (
    DatasetStatusDict,
    FineTuneJobStatusDict,
    ModelStatusDict,
)
from kubetune.api.run.training_plan import TrainingPlan
from kubetune.api.training.automatic import AUTO
from kubetune.api.training.settings import merge
from kubetune.decide.memory.batch import Batch, smallest_batch, with_batch
from kubetune.decide.memory.estimate import device_memory, longest_row, quantity
from kubetune.decide.memory.peak import Memory, Sizes, memory, on_gpu, sizes_of
from kubetune.decide.settings.workers import processes_of

SPARE = 0.15
"""The share of the memory that stays free: estimates are up to 12 % off."""
CHECKPOINTING = "gradientCheckpointing"
BATCH = "perDeviceBatchSize"
KEY = "automatic"
"""Of the settings in force: for each field that was chosen, what was chosen and why."""


@dataclass(frozen=True)
class Known:
    """What the estimate of a job is made from."""

    model: ModelStatusDict
    dataset: DatasetStatusDict
    objective: str
    templated: bool
    """Whether a PromptTemplate makes other text of the rows than was measured."""
    by_trl: bool
    """Whether trl trains: the formulas are about it."""


@dataclass(frozen=True)
class _Fit:
    """Whether settings fit, with the words for it."""

    sizes: Sizes
    sequence: int
    limit: str
    field: str

    def peak(self, settings: JsonObject) -> Memory | None:
        return memory(self.sizes, settings, self.sequence)

    def holds(self, settings: JsonObject) -> bool:
        peak = self.peak(settings)
        return peak is not None and peak.total <= (1 - SPARE) * device_memory(self.limit, settings)

    def needs(self, settings: JsonObject) -> str:
        peak = self.peak(settings)
        return quantity(peak.total) if peak else "nobody knows what"


def settle(
    settings: JsonObject, known: Known, rows: int, before: JsonObject | None = None
) -> JsonObject:
    """The settings with numbers in place of ``auto``, and with the reasons in ``automatic``.

    ``rows`` is the batch that ``auto`` is a way to: what an optimizer step learns from on each
    device is so many rows times gradientAccumulationSteps, whatever is chosen. ``before`` is what
    was chosen for attempts that are there already.
    """
    numbers = settings["hyperparameters"]
    wanted = {name for name in (CHECKPOINTING, BATCH) if numbers.get(name, AUTO) == AUTO}
    if not wanted:
        return settings
    given = {key: value for key, value in numbers.items() if key not in wanted}
    if before:
        chosen: JsonObject = {**given, **before["hyperparameters"]}
        return settings | {KEY: before[KEY], "hyperparameters": chosen}
    whole = Batch(rows, numbers["gradientAccumulationSteps"])
    if BATCH in wanted:
        given[BATCH] = rows
    settings = settings | {"hyperparameters": given}
    fit = _fit(settings, known)
    if BATCH in wanted:
        if isinstance(fit, _Fit):
            settings = _with_largest(settings, whole, fit, choose=CHECKPOINTING in wanted)
        else:
            settings = _told(settings, BATCH, f"{rows}: {fit}")
    if CHECKPOINTING in wanted:
        if not on_gpu(settings) and CHECKPOINTING in numbers:
            return _told(settings, CHECKPOINTING, "off: no GPU is asked for")
        settings = _checkpointing(settings, fit, known)
    return settings


def chosen_before(status: FineTuneJobStatusDict, settings: JsonObject) -> JsonObject | None:
    """What attempts before were started with, which later ones keep; None where there is nothing.

    With another number of workers training starts over.
    """
    earlier = status.get("effective") or {}
    same = earlier.get("workers") == settings["workers"] and processes_of(
        earlier["resources"]
    ) == processes_of(settings["resources"])
    if not status.get("attempts") or KEY not in earlier or not same:
        return None
    names = (CHECKPOINTING, BATCH, "gradientAccumulationSteps")
    numbers: JsonObject = earlier["hyperparameters"]
    kept = {name: numbers[name] for name in names if name in numbers}
    return {KEY: earlier[KEY], "hyperparameters": kept}


def with_declared(training: TrainingPlan, settings: JsonObject, declared: Batch) -> TrainingPlan:
    """The training as the job asks for it: which batch ``auto`` has become is not its result's."""
    if BATCH not in (settings.get(KEY) or {}):
        return training
    numbers = training.hyperparameters.model_copy(
        update={
            "per_device_batch_size": declared.size,
            "gradient_accumulation_steps": declared.accumulation,
        }
    )
    return training.model_copy(update={"hyperparameters": numbers})


def _checkpointing(settings: JsonObject, fit: _Fit | str, known: Known) -> JsonObject:
    if not on_gpu(settings):
        return settings
    if not known.by_trl:
        # Their own, which the formulas don't know.
        return _told(settings, CHECKPOINTING, f"on: {fit}")
    if isinstance(fit, str):
        return _told(_recomputing(settings, on=True), CHECKPOINTING, f"on: {fit}")
    without = _recomputing(settings, on=False)
    needs = f"training without needs about {fit.needs(without)}"
    limit = f"{fit.field} {fit.limit}"
    if fit.holds(without):
        return _told(without, CHECKPOINTING, f"off: {needs} of {limit}")
    why = f"on: {needs}, and {SPARE:.0%} of {limit} shall stay free"
    return _told(_recomputing(settings, on=True), CHECKPOINTING, why)


def _with_largest(settings: JsonObject, whole: Batch, fit: _Fit, *, choose: bool) -> JsonObject:
    """The largest batch that fits; where checkpointing is open too, without it if one does."""
    ways = [settings]
    if choose and on_gpu(settings):
        ways = [_recomputing(settings, on=False), _recomputing(settings, on=True)]
    for way in ways:
        for batch in _batches(whole, smallest_batch(settings)):
            tried = with_batch(way, batch)
            if fit.holds(tried):
                why = f"{batch.size}: training needs about {fit.needs(tried)} of {fit.limit}"
                return _told(with_batch(settings, batch), BATCH, why)
    least = list(_batches(whole, smallest_batch(settings)))[-1]
    tried = with_batch(ways[-1], least)
    why = f"{least.size}, the smallest: training needs about {fit.needs(tried)} of {fit.limit}"
    return _told(with_batch(settings, least), BATCH, why)


def _batches(whole: Batch, smallest: int) -> Iterator[Batch]:
    """All that learn from the same rows at each step, the largest first."""
    for size in range(whole.rows, 0, -1):
        if whole.rows % size == 0 and (size >= smallest or size == whole.size):
            yield Batch(size, whole.rows // size)


def _fit(settings: JsonObject, known: Known) -> _Fit | str:
    """What fits is measured by; a sentence where it can't be told."""
    gpu = on_gpu(settings)
    field = "resources.gpuMemory" if gpu else "resources.memory"
    limit = settings["resources"].get(field.rpartition(".")[2])
    if limit is None:
        return f"{field} isn't stated"
    if not known.by_trl:
        return "only trainings by trl are estimated"
    if known.objective != "sft":
        return f"objective {known.objective} isn't estimated"
    sizes = sizes_of(known.model)
    sequence = longest_row(None if known.templated else known.dataset.get("lengths"), settings)
    if sizes is None or memory(sizes, settings, sequence) is None:
        return "trainings of this model aren't estimated"
    return _Fit(sizes, sequence, str(limit), field)


def _recomputing(settings: JsonObject, *, on: bool) -> JsonObject:
    return merge(settings, {"hyperparameters": {CHECKPOINTING: on}})


def _told(settings: JsonObject, field: str, why: str) -> JsonObject:
    return merge(settings, {KEY: {field: why}})


def announced(spec: Mapping[str, Any]) -> list[str]:
    """What ``auto`` will come to in a job, as far as its manifest tells: for who looks at it."""
    numbers: JsonObject = spec.get("hyperparameters") or {}
    resources: JsonObject = spec.get("resources") or {}
    gpu = bool(resources.get("gpu"))
    field = "resources.gpuMemory" if gpu else "resources.memory"
    stated = resources.get(field.rpartition(".")[2])
    share = f"{SPARE:.0%} of {field}" + (f" {stated}" if stated else "")
    unknown = "" if stated or not gpu else f", if target or profile states {field}"
    found: list[str] = []
    if gpu and numbers.get(CHECKPOINTING, AUTO) == AUTO:
        found.append(
            f"hyperparameters.{CHECKPOINTING} is auto: off where training without leaves"
            f" {share} free{unknown}, else on"
        )
    elif numbers.get(CHECKPOINTING) == AUTO:
        found.append(f"hyperparameters.{CHECKPOINTING} is auto: off, no GPU is asked for")
    if numbers.get(BATCH) == AUTO:
        found.append(
            f"hyperparameters.{BATCH} is auto: the largest that leaves {share} free{unknown};"
            " gradientAccumulationSteps follows"
        )
    return found


def in_words(settings: Any) -> str:
    """What was chosen, for a condition; empty where nothing was."""
    chosen: dict[str, str] = settings.get(KEY) or {}
    return "; ".join(f"hyperparameters.{name} auto is {why}" for name, why in chosen.items())
