"""Carries schedules out, looks for counterexamples and shrinks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation import invariants
from tests.simulation.faults import heal
from tests.simulation.ledger import VIOLATION, Violation
from tests.simulation.operator_model import SETTINGS
from tests.simulation.prepared import prepared
from tests.simulation.schedule import Step, perform

SETTLE_SECONDS = 300.0
MAX_SETTLES = 24
QUIET_SECONDS = 600.0


@dataclass
class Result:
    """What came of a schedule."""

    seed: int
    steps: Sequence[Step]
    violations: list[Violation]
    story: list[str] = field(default_factory=list[str])

    @property
    def invariants(self) -> list[str]:
        """Names of what was violated, in order."""
        return list(dict.fromkeys(violation.invariant for violation in self.violations))


def carry_out(seed: int, steps: Sequence[Step], *, tell: bool = False) -> Result:
    """A schedule in a world of its own, until that is quiet."""
    story: list[str] = []
    world = prepared(seed, story if tell else None)
    try:
        world.start_operator()
        for step in steps:
            world.run_for(step.pause)
            perform(world, step)
        world.run_for(steps[-1].pause if steps else 0.0)
        heal(world)
        for _ in range(MAX_SETTLES):
            world.run_for(SETTLE_SECONDS)
            if invariants.is_settled(world) or world.ledger.violations:
                break
        if not world.ledger.violations:
            # Time to stop what should not run, for the books to be closed, and for each target to
            # have looked for its Secret.
            seen = world.ledger.secrets_changed_at + SETTINGS.target_probe_seconds
            world.run_for(SETTLE_SECONDS + max(seen - world.now_seconds(), 0.0))
            invariants.check(world)
        if not world.ledger.violations:
            ledger = world.ledger
            writes, requests = ledger.writes, ledger.requests
            world.run_for(QUIET_SECONDS)
            invariants.check_quiet(world, ledger.writes - writes, ledger.requests - requests)
        return Result(seed, steps, world.ledger.violations, _until_violated(story))
    finally:
        world.close()


def _until_violated(story: list[str]) -> list[str]:
    """A story up to its last violation: what comes later explains nothing."""
    marked = [at for at, line in enumerate(story) if VIOLATION in line]
    return story[: marked[-1] + 1] if marked else story


def shrink(found: Result, invariants: Sequence[str]) -> Result:
    """A violation of one of the same invariants by as few steps as possible, told as a story."""
    wanted, steps = set(invariants) & set(found.invariants), list(found.steps)
    shorter = True
    while shorter:
        shorter = False
        for at in reversed(range(len(steps))):
            fewer = steps[:at] + steps[at + 1 :]
            if wanted & set(carry_out(found.seed, fewer).invariants):
                steps, shorter = fewer, True
    return carry_out(found.seed, steps, tell=True)
