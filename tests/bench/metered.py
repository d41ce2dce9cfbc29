"""``kubetune operator`` that counts the CPU of what it signs and checks.

``python -m tests.bench.metered FILE operator ...`` runs the command line as it is; SIGUSR1 has it
write CPU seconds by part into the file. What a part calls counts for it alone, and coroutines only
while they run. Measuring costs a fraction of a microsecond each time, which is counted, too.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

SIGNING, CHECKS, STORING = "signing", "checks", "storing"
PARTS: dict[str, tuple[str, ...]] = {
    SIGNING: (
        "kubetune.keys:Keyring.code",
        "kubetune.keys:Keyring.lasting_code",
        "kubetune.keys:Keyring.seeds",
        "kubetune.targets.kubernetes.ownership:marked",
        "kubetune.targets.kubernetes.ownership:mark_of",
        "kubetune.tracking.trust:signed_version",
        "kubetune.tracking.trust:signed_measurement",
        "kubetune.tracking.trust:report_key",
        "kubetune.decide.fine_tune_job.provenance:statement",
        "kubetune.decide.fine_tune_job.provenance:about_version",
        "kubetune.attestation:envelope",
        "kubetune.attestation:public_keys",
    ),
    CHECKS: (
        "kubetune.keys:Keyring.verifies",
        "kubetune.keys:Keyring.all_codes",
        "kubetune.targets.kubernetes.ownership:has_mark",
        "kubetune.targets.kubernetes.ownership:is_run_of",
        "kubetune.targets.kubernetes.ownership:why_foreign",
        "kubetune.tracking.trust:own_words",
        "kubetune.tracking.trust:Trust.version",
        "kubetune.tracking.trust:Trust.measurement",
        "kubetune.observe.consent:Consents.lacking",
        "kubetune.observe.registered_names:RegisteredNames.lacking",
    ),
    # With the tag that has the signature: set by the same call as those that are there anyway.
    STORING: ("kubetune.act.job_questions:_Asker._attest",),
}


class Meter:
    """CPU seconds of the loop's thread by what was called."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within = False

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, or coroutine function, with a meter."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def later(*arguments: Any, **options: Any) -> Any:
                return await _Steps(self, part, function(*arguments, **options))

            return later

        @functools.wraps(function)
        def metered(*arguments: Any, **options: Any) -> Any:
            return self.counted(part, lambda: function(*arguments, **options))

        return metered

    def counted(self, part: str, call: Callable[[], Any]) -> Any:
        """What the call returns or raises."""
        if self._within:
            return call()
        self._within = True
        before = time.thread_time()
        try:
            return call()
        finally:
            self.seconds[part] += time.thread_time() - before
            self._within = False


class _Steps:
    """A coroutine whose steps are counted, and not what others do while it waits."""

    def __init__(self, meter: Meter, part: str, coroutine: Any) -> None:
        self._meter, self._part, self._coroutine = meter, part, coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step: Callable[[], Any] = functools.partial(next, steps)
        while True:
            try:
                waits_for = self._meter.counted(self._part, step)
            except StopIteration as ended:
                return ended.value
            try:
                given = yield waits_for
            except BaseException as error:  # passed on, whatever it is
                step = functools.partial(steps.throw, error)
            else:
                step = functools.partial(steps.send, given)


def install(meter: Meter) -> None:
    """Put the meter around all parts, wherever their names were imported."""
    for part, names in PARTS.items():
        for name in names:
            module, _, path = name.partition(":")
            owner: Any = importlib.import_module(module)
            *inside, last = path.split(".")
            for step in inside:
                owner = getattr(owner, step)
            function = getattr(owner, last)
            made = meter.wrapped(f"{part} {path}", function)
            setattr(owner, last, made)
            for other in [m for n, m in sys.modules.items() if n.startswith("kubetune")]:
                if vars(other).get(last) is function:
                    setattr(other, last, made)


def main() -> None:
    """Run the command line with a meter."""
    path = Path(sys.argv[1])
    importlib.import_module("kubetune.operate")
    meter = Meter()
    install(meter)

    def write(*_: object) -> None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(meter.seconds))
        new.rename(path)

    signal.signal(signal.SIGUSR1, write)
    from kubetune.cli import main as kubetune

    sys.argv = ["kubetune", *sys.argv[2:]]
    kubetune(prog_name="kubetune")


if __name__ == "__main__":
    main()
