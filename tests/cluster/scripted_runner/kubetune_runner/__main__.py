"""``{"do": "succeed" | "crash" | "wait"}``; waiting ends with SIGTERM, as interrupted."""

import json
import os
import signal
import sys
from pathlib import Path

from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune.api.run.plan import ENV_ATTEMPT, ENV_PLAN, in_container
from pydantic import JsonValue


def end(code: ExitCode, outcome: Outcome) -> None:
    in_container("/dev/termination-log").write_text(outcome.to_message())
    sys.exit(code)


def interrupted(*_: object) -> None:
    outcome = Outcome(status="interrupted", reason="Interrupted", retryable=True)
    end(ExitCode.INTERRUPTED, outcome)


signal.signal(signal.SIGTERM, interrupted)
plan = json.loads(in_container(os.environ[ENV_PLAN]).read_text())
assert Path.home() == Path("/kubetune/work")
if plan["do"] == "succeed":
    summary: dict[str, JsonValue] = {"attempt": os.environ[ENV_ATTEMPT]}
    end(ExitCode.SUCCEEDED, Outcome(status="succeeded", reason="Trained", summary=summary))
if plan["do"] == "crash":
    raise RuntimeError("no https://me:hunter2@hub.example today")
while True:
    signal.pause()
