"""Attempts that ran out of memory, on whatever target: what helps, and when trying ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.status_types import AttemptDict
from kubetune.decide.decision import shorten
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.memory.batch import HALVES, batch_of, is_smallest, ran_out, with_batch
from kubetune.decide.memory.estimate import longest_row, savings
from kubetune.decide.memory.peak import on_gpu, sizes_of
from kubetune.targets.values import KILLED_EXIT_CODE, RunState

ATTEMPTS = 2
"""A neighbour may have had the rest of the memory, so one failure proves nothing; two do."""


def with_memory_advice(observed: ObservedJob) -> ObservedJob:
    """The job with the settings that help in the messages of runs that ran out of memory."""
    settings = observed.job.status.get("effective")
    if not settings or not any(map(_ran_out, observed.runs)):
        return observed
    known = observed.job.status.get("attempts") or ()

    def advised(run: RunState) -> RunState:
        tried = with_batch(settings, batch_of(run.attempt, known, settings))
        return _advised(run, observed, tried)

    runs = [advised(run) if _ran_out(run) else run for run in observed.runs]
    return replace(observed, runs=runs)


def no_more_memory(attempts: Sequence[AttemptDict], settings: JsonObject) -> str:
    """Why no attempt follows the newest one, which ran out of memory; empty when one does.

    Where a smaller batch follows, this isn't asked.
    """
    policy, newest = settings.get("onOutOfMemory"), attempts[-ATTEMPTS:]
    if policy == "Fail":
        return "onOutOfMemory is Fail"
    if policy == HALVES and is_smallest(newest[-1], settings):
        return "with the smallest batch that can train"
    if len(newest) < ATTEMPTS or not all(map(ran_out, newest)):
        return ""
    alike = not settings or len({batch_of(n["number"], newest, settings) for n in newest}) == 1
    return "twice in a row, with the same settings" if alike else ""


def _ran_out(run: RunState) -> bool:
    reason = run.outcome.reason if run.outcome else run.reason
    return run.phase == "failed" and reason == Reason.OUT_OF_MEMORY


def _advised(run: RunState, observed: ObservedJob, settings: JsonObject) -> RunState:
    said = run.outcome.message if run.outcome else run.message
    # A killed run used too much main memory; on a GPU the settings don't change that.
    message = shorten(f"{said.rstrip('.')}: {_advice(observed, settings, killed=_killed(run))}")
    if run.outcome is None:
        return replace(run, message=message)
    outcome = run.outcome.model_copy(update={"message": message})
    return replace(run, outcome=outcome, message=message)


def _killed(run: RunState) -> bool:
    """Whether the system has killed the run, or a process of it that the run could still name."""
    return run.outcome is None or run.exit_code == KILLED_EXIT_CODE


def _advice(observed: ObservedJob, settings: JsonObject, *, killed: bool) -> str:
    resources, gpu = settings["resources"], on_gpu(settings)
    if gpu and killed:
        return f"raise resources.memory, which is {resources['memory']}"
    larger = (
        "use a GPU with more memory"
        if gpu
        else f"raise resources.memory, which is {resources['memory']}"
    )
    spec, dataset = observed.job.spec, observed.dataset
    templated = spec is not None and spec.prompt_ref is not None
    lengths = None if templated or dataset is None else dataset.status.get("lengths")
    sizes = sizes_of(observed.model.status) if observed.model else None
    helps = savings(sizes, settings, longest_row(lengths, settings))
    return f"set {' or '.join(helps)}, or {larger}" if helps else larger
