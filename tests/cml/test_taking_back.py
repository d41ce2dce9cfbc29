"""What arrives late beside another operator's is taken back by the one that has sent it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from kubetune.targets.errors import BackendError
from kubetune_devcluster.cml.server import Simulator

from tests.cml.test_hostile_answers import Site, running, site

pytestmark = pytest.mark.usefixtures("cmlapi_path")


async def soon(holds: Callable[[], object]) -> None:
    """Return once it holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - the answer is of another thread
            await asyncio.sleep(0.02)


@asynccontextmanager
async def overtaken(
    simulator: Simulator, operation: str, *, cancelled: bool
) -> AsyncGenerator[Site]:
    """Another operator, after ours has sent something; when the block ends, that arrives.

    Ours has lost its lease by then, and ends, before it has heard an answer or afterwards.
    """
    leads = True
    go = threading.Event()
    held = simulator.faults.add(operation, hold=go)
    async with site(simulator, lambda: leads) as ours, site(simulator) as theirs:
        asking = asyncio.create_task(ours.until(running))
        await soon(lambda: held.hits)
        await theirs.until(running)
        yield theirs
        leads = False
        if cancelled:
            asking.cancel()
            go.set()
        else:
            go.set()
            done = simulator.count(operation) + 1
            await soon(lambda: asking.done() or simulator.count(operation) >= done)
            await asyncio.wait([asking], timeout=1)
            asking.cancel()
        with suppress(asyncio.CancelledError, BackendError):
            await asking
        await ours.backend.close()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_run_after_the_end_of_anothers(simulator: Simulator, cancelled: bool) -> None:
    async with overtaken(simulator, "create_job_run", cancelled=cancelled):
        (job,) = simulator.jobs()
        (run,) = simulator.runs(job.id)
        simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    first, second = simulator.runs(job.id)
    assert (first.id, second.active) == (run.id, False)
    assert second.stop_asked is not None


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_job_beside_one_that_has_runs(simulator: Simulator, cancelled: bool) -> None:
    async with overtaken(simulator, "create_job", cancelled=cancelled):
        (job,) = simulator.jobs()
    assert len(simulator.all_jobs()) == 2
    assert simulator.jobs() == [job]
    (run,) = simulator.runs(job.id)
    assert run.active
