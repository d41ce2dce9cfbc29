"""Hands inspections and evaluations to the real runner; a training ends as its script says, once it
has one, for all workers or its own. With SCRIPTED=all everything does.

``tests/cluster/namespace.py`` writes the scripts into the volume that is mounted at SCRIPTS.
"""

import json
import os
import signal
import sys
import time

from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune.api.run.plan import ENV_ATTEMPT, ENV_PLAN, ENV_RUN_KEY, ENV_WORKER, in_container

SCRIPTS = "/scripts"


def leave(outcome: Outcome) -> None:
    in_container("/dev/termination-log").write_text(outcome.to_message())


def interrupted(*_: object) -> None:
    leave(Outcome(status="interrupted", reason="Interrupted", retryable=True))
    sys.exit(ExitCode.INTERRUPTED)


plan = json.loads(in_container(os.environ[ENV_PLAN]).read_text())
scripted = plan["kind"] == "train" or os.environ.get("SCRIPTED") == "all"
if not scripted and plan["kind"] == "inspectModel" and "registryUri" in plan["model"]:
    # What scripted trainings register has no files.
    leave(Outcome(status="failed", reason="ModelFilesMissing", message="a scripted result"))
    sys.exit(ExitCode.REFUSED)
if not scripted:
    # Without the path that leads here, the installed package is the one that is found.
    del os.environ["PYTHONPATH"]
    os.execv(sys.executable, [sys.executable, "-m", "kubetune_runner"])
signal.signal(signal.SIGTERM, interrupted)
attempt = f"{os.environ[ENV_RUN_KEY]}.{os.environ[ENV_ATTEMPT]}"
script = in_container(SCRIPTS) / f"{attempt}.json"
own = script.with_name(f"{attempt}.{os.environ.get(ENV_WORKER, '0')}.json")
while not (script.exists() or own.exists()):
    time.sleep(0.05)
script = own if own.exists() else script
told = json.loads(script.read_text())
if told["outcome"]:
    leave(Outcome.model_validate(told["outcome"]))
sys.exit(told["code"])
