"""Look for counterexamples, or tell a schedule as a story; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.explorer import Result
from tests.simulation.hunting import hunt, processes, tell
from tests.simulation.mendings import MENDINGS, schedule

BEGINNING = """there are, all Ready: Dataset tickets, Model base, ComputeTarget main (this cluster;
the default), ComputeTarget cloud (CML, with the API key in Secret cml-key)
     time    who        what (STEP: what the schedule does, and then what comes of it)"""


def main() -> int:
    """1 when something is violated."""
    options = _options()
    with processes(1 if options.seed is not None else options.workers) as pool:
        return _tell(pool, options) if options.seed is not None else _hunt(pool, options)


def _tell(pool: ProcessPoolExecutor, options: argparse.Namespace) -> int:
    kept = [int(at) for at in options.steps.split(",")] if options.steps else None
    result = tell(pool, options.seed, kept, shorter=options.shrink, without=options.without)
    show(result, options.without)
    return 1 if result.violations else 0


def _hunt(pool: ProcessPoolExecutor, options: argparse.Namespace) -> int:
    began = time.monotonic()
    found = hunt(pool, options.first, options.schedules, without=options.without)
    took = time.monotonic() - began
    print(f"{found.schedules} schedules in {took:.0f} s, {len(found.failed)} violate something")
    counts = Counter(name for seed in found.failed for name in found.names(seed))
    for name, count in counts.most_common():
        seeds = [str(seed) for seed in found.failed if name in found.names(seed)][:5]
        print(f"{count:7}  {name}: seeds {', '.join(seeds)}")
    if found.failed:
        first = tell(pool, min(found.failed), None, shorter=True, without=options.without)
        show(first, options.without)
    return 1 if found.failed else 0


def show(result: Result, without: str) -> None:
    """A schedule as a story in time order, and how to have it told again."""
    print(f"\nseed {result.seed}: {BEGINNING}")
    print("\n".join(result.story))
    for violation in result.violations:
        print(f"VIOLATED  {violation}")
    drawn = schedule(result.seed, without)
    kept = ",".join(str(drawn.index(step)) for step in result.steps)
    taken_out = f" --without {without}" if without else ""
    print(f"again: python -m tests.simulation --seed {result.seed} --steps {kept}{taken_out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many; default 10,000")
    parser.add_argument("--first", type=int, default=0, help="the first seed; default 0")
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    parser.add_argument("--seed", type=int, help="tell the schedule of this seed")
    parser.add_argument("--steps", help="with --seed: only these steps, as 0,3,5")
    parser.add_argument("--shrink", action="store_true", help="with --seed: as few as possible")
    parser.add_argument(
        "--without", default="", choices=["", *MENDINGS], help="take this mending out"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
