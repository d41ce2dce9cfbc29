"""What attempts train with: one that ran out of memory halves the next one's, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubetune.api import JsonObject

from tests.simulation.manifests import TEAM

if TYPE_CHECKING:
    from tests.simulation.runs import Run
    from tests.simulation.world import World

DECLARED = (8, 1)


def batch_of(run: Run) -> tuple[int, int]:
    """Batch and accumulation."""
    size, _, accumulation = run.batch.partition("x")
    return (int(size), int(accumulation)) if run.batch else DECLARED


def halves(world: World, run: Run) -> bool:
    """Whether the job of a run asks for smaller batches."""
    job = world.server.find("FineTuneJob", TEAM, run.owner_name)
    return bool(run.purpose == "train" and job and job["spec"].get("onOutOfMemory") == "HalveBatch")


def batch_problems(world: World, run: Run) -> Iterator[str]:
    """What is wrong with the batch of a run that starts."""
    if run.purpose != "train":
        return
    batch = batch_of(run)
    if batch[0] * batch[1] != DECLARED[0] * DECLARED[1]:
        yield f"{run.name} trains with {run.batch}"
    earlier = [
        other
        for other in world.ledger.runs
        if other.run_key == run.run_key and other.attempt <= run.attempt
    ]
    for other in earlier:
        if other.attempt == run.attempt and other.batch != run.batch:
            yield f"{run.name} is the attempt of {other.name}, with {run.batch!r}"
    # A pod that was evicted has others of its attempt behind it.
    before = max(earlier, key=lambda other: (other.attempt, other.started), default=None)
    if before is None or before.attempt == run.attempt:
        if before is None and run.attempt == 1 and run.batch:
            yield f"{run.name} is the first, with {run.batch}"
        return
    allowed = {batch_of(before)}
    if before.ended is not None and before.ended.reason == "OOMKilled" and halves(world, run):
        size, accumulation = batch_of(before)
        if size > 1:
            allowed.add((size // 2, accumulation * 2))
    if batch not in allowed:
        yield f"{run.name} trains with {batch}, and {before.name} has trained with {before.batch!r}"


def untold_batches(world: World, body: JsonObject) -> Iterator[str]:
    """Attempts of which the status says something else than what they trained with."""
    uid = body["metadata"]["uid"]
    runs = {
        run.attempt: run for run in world.ledger.runs if run.owner == uid and run.purpose == "train"
    }
    for item in (body.get("status") or {}).get("attempts") or ():
        run = runs.get(item["number"])
        told = (
            item.get("perDeviceBatchSize", DECLARED[0]),
            item.get("gradientAccumulationSteps", DECLARED[1]),
        )
        if run is not None and told != batch_of(run):
            yield f"{run.name} trains with {batch_of(run)}, told is {told}"
