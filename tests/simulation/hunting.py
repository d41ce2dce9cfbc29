"""Spreads many schedules over processes whose sets have one order, so that seeds repeat."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from tests.simulation import mendings
from tests.simulation.explorer import Result, carry_out, shrink
from tests.simulation.ledger import Violation
from tests.simulation.prepared import prepared
from tests.simulation.schedule import Step

CHUNK, FEW = 50, 10
"""Schedules in one task: of many that are all carried out, and where the first find ends it."""
HASH_SEED = "0"
"""Keys are worked on in the order of sets: this makes it the same in every process."""


@dataclass(frozen=True)
class Hunt:
    """What came of many schedules."""

    schedules: int
    failed: dict[int, list[Violation]]
    """What is violated, by seed."""

    def names(self, seed: int) -> set[str]:
        """The invariants that a seed violates."""
        return {violation.invariant for violation in self.failed[seed]}


def hunt(
    pool: ProcessPoolExecutor,
    first: int,
    count: int,
    *,
    without: str = "",
    seconds: float | None = None,
) -> Hunt:
    """Carry out the schedules of these seeds, or as many as the time allows.

    ``without`` takes a mending out (mendings.py).
    """
    failed: dict[int, list[Violation]] = {}
    sizes = {
        start: min(CHUNK, first + count - start) for start in range(first, first + count, CHUNK)
    }
    tasks = {pool.submit(_chunk, start, size, without): size for start, size in sizes.items()}
    done = 0
    try:
        for task in as_completed(tasks, seconds):
            failed.update(task.result())
            done += tasks[task]
    except TimeoutError:
        for task in tasks:
            task.cancel()
    return Hunt(done, dict(sorted(failed.items())))


def find(
    pool: ProcessPoolExecutor, seeds: Sequence[int], invariants: Sequence[str], *, without: str = ""
) -> Result | None:
    """A schedule of these seeds that violates one of the invariants, shrunk and told.

    One that does so only while the mending ``without`` is taken out.
    """
    tasks = [
        pool.submit(_first, seeds[at : at + FEW], invariants, without)
        for at in range(0, len(seeds), FEW)
    ]
    try:
        return next((found for task in tasks if (found := task.result())), None)
    finally:
        for task in tasks:
            task.cancel()


def tell(
    pool: ProcessPoolExecutor,
    seed: int,
    kept: Sequence[int] | None,
    *,
    shorter: bool,
    without: str = "",
) -> Result:
    """One schedule as a story: all of it, some of its steps, or as few as violate the same."""
    task: Future[Result] = pool.submit(_tell, seed, kept, shorter, without)
    return task.result()


@contextmanager
def processes(workers: int | None = None) -> Generator[ProcessPoolExecutor]:
    """As many processes as there are cores, for any number of hunts: each takes long to start."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = HASH_SEED
    try:
        with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn"), _begin) as pool:
            yield pool
    finally:
        del os.environ["PYTHONHASHSEED"]
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before


def _begin() -> None:
    """What every process does first."""
    # Tests beside these look at the clock of the machine; no schedule does.
    os.nice(10)
    # Errors of reconciles are part of the schedules; to format tracebacks takes half the time.
    logging.disable(logging.CRITICAL)
    prepared(0).close()
    # All that is there by now stays: to look through it for garbage takes a sixth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _chunk(first: int, count: int, without: str) -> dict[int, list[Violation]]:
    with mendings.taken_out(without):
        results = (
            carry_out(seed, mendings.schedule(seed, without))
            for seed in range(first, first + count)
        )
        return {result.seed: result.violations for result in results if result.violations}


def _first(seeds: Sequence[int], invariants: Sequence[str], without: str) -> Result | None:
    for seed in seeds:
        steps = mendings.schedule(seed, without)
        with mendings.taken_out(without):
            result = carry_out(seed, steps)
            if not set(result.invariants) & set(invariants):
                continue
        if without and set(carry_out(seed, steps).invariants) & set(invariants):
            # Another fault: the mending makes no difference.
            continue
        with mendings.taken_out(without):
            return shrink(result, invariants)
    return None


def _tell(seed: int, kept: Sequence[int] | None, shorter: bool, without: str) -> Result:
    steps: Sequence[Step] = mendings.schedule(seed, without)
    if kept is not None:
        steps = [steps[at] for at in kept]
    with mendings.taken_out(without):
        result = carry_out(seed, steps, tell=True)
        return shrink(result, result.invariants) if shorter and result.violations else result
