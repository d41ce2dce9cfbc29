"""Let it storm for some minutes, and count; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml import client_package

from tests.chaos.storm import table
from tests.chaos.storm.counting import Count, count, left_over
from tests.chaos.storm.faults import Faults, Weather
from tests.chaos.storm.storm import Storm, drawn, storm

STEP_SECONDS = 0.1
CALM_SECONDS = 240.0
"""In which all that was begun has to end, once nothing fails any more."""
SHARE = 0.8
"""Of the minutes, in which jobs begin."""
OPERATORS, SERVERS = (4.0, 12.0), (4.0, 14.0)
"""Seconds between two faults: of one operator, and of the servers."""


def main() -> int:
    """1 when something isn't there once."""
    options = _options()
    # Its client would ask for minutes.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "5"
    print(f"seed {options.seed}, {options.jobs} jobs in {options.minutes:g} minutes", flush=True)
    packages = client_package.build()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        cluster = LocalCluster(Path(folder) / "cluster", {"node", "mlflow"})
        try:
            cluster.up()
            with storm(cluster, Path(folder), packages) as found:
                found.plan(drawn(options.jobs, random.Random(f"{options.seed}/jobs")))
                faults = _let_it_storm(found, options.seed, options.minutes * 60)
                _calm(found)
                return _tell(found, faults, options.logs)
        finally:
            cluster.down()


def _let_it_storm(found: Storm, seed: int, seconds: float) -> Faults:
    faults = Faults(found)
    weather = [
        Weather(faults, f"{seed}/operator-{at}", OPERATORS, replica)
        for at, replica in enumerate(found.replicas)
    ]
    weather.append(Weather(faults, f"{seed}/servers", SERVERS, None))
    begun = said = time.monotonic()
    for each in weather:
        each.start()
    while (passed := time.monotonic() - begun) < seconds and not found.is_over():
        found.step(min(1.0, passed / (seconds * SHARE)))
        faults.look_for_a_leader()
        if time.monotonic() > said + 30:
            said = time.monotonic()
            print(f"{passed:5.0f} s: {_state(found)}", flush=True)
        time.sleep(STEP_SECONDS)
    faults.end()
    for each in weather:
        each.join(120)
        if each.problem:
            raise each.problem
    return faults


def _calm(found: Storm) -> None:
    """Everything is there again: what was begun ends, and what is to go goes."""
    print(f"calm: {_state(found)}", flush=True)
    found.simulator.faults.clear()
    found.servers.revive()
    deadline = time.monotonic() + CALM_SECONDS
    while not (found.is_over() and not left_over(found)) and time.monotonic() < deadline:
        for replica in found.replicas:
            replica.tend()
        found.step()
        time.sleep(STEP_SECONDS * 2)
    print(f"end: {_state(found)}", flush=True)


def _tell(found: Storm, faults: Faults, logs: Path | None) -> int:
    counts: list[Count] = count(found)
    print(f"\n{table.counts(counts)}\n\n{table.outages(faults.tally.outages)}\n")
    relists = sum(w.relists for place in found.places for w in place.record.watches)
    print(f"The watches began anew {relists} times.")
    ends, errors = Counter[str](), Counter[str]()
    for replica in found.replicas:
        ends += replica.ends
        errors += replica.unexpected()
    for text, often in ends.most_common():
        print(f"ended by itself {often} times: {text}")
    for text, often in errors.most_common(12):
        print(f"not reconciled {often} times: {text}")
    wrong = [each for counted in counts for each in counted.wrong]
    for each in wrong:
        print(f"WRONG  {each}")
    if logs:
        logs.mkdir(parents=True, exist_ok=True)
        for at, replica in enumerate(found.replicas):
            (logs / f"operator-{at}.log").write_text(replica.operator.log_since(0))
    return 1 if wrong else 0


def _state(found: Storm) -> str:
    stages = Counter("over" if course.over else course.stage for course in found.courses)
    return ", ".join(f"{stage} {number}" for stage, number in stages.most_common())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="how many; default 200")
    parser.add_argument("--minutes", type=float, default=6.0, help="of the storm; default 6")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of lives and faults"
    )
    parser.add_argument("--logs", type=Path, help="folder for the logs of the operators")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
