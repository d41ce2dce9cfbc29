"""One attempt: a folder with the number of a process, and with an outcome once that has slept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kubetune.api.run.outcome import Outcome
from kubetune.targets.values import FINISHED, RunState

SLEEP = 'sleep "$0" && cp "$1" outcome.new && mv outcome.new outcome.json'
LOOK_AGAIN_SECONDS = 0.5


class Attempt:
    """Its calls are repeatable, and quick enough for the loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_made(self) -> bool:
        """Whether it was started once."""
        return (self.folder / "pid").exists()

    def start(self, seconds: int, outcome: Path) -> None:
        """Sleep, then take the outcome."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["sh", "-c", SLEEP, str(seconds), str(outcome)]
        # In a session of its own it goes on without the operator.
        self._process = subprocess.Popen(command, cwd=self.folder, start_new_session=True)
        (self.folder / "pid").write_text(str(self._process.pid))

    def state(self) -> RunState:
        """As it shows."""
        pid, stopped = self.folder / "pid", self.folder / "stopped"
        state = RunState(int(self.folder.name), str(self.folder), "running", _written(pid))
        outcome = self.folder / "outcome.json"
        if outcome.exists():
            told = Outcome.from_message(outcome.read_text())
            phase = "succeeded" if told and told.status == "succeeded" else "failed"
            return replace(state, phase=phase, ended_at=_written(outcome), outcome=told)
        if self._is_alive(int(pid.read_text())):
            return replace(state, look_again_seconds=LOOK_AGAIN_SECONDS)
        if stopped.exists():
            return replace(state, phase="stopped", ended_at=_written(stopped))
        return replace(state, phase="failed", ended_at=datetime.now(UTC))

    def stop(self) -> None:
        """End its process, if that sleeps."""
        if self.state().phase not in FINISHED:
            (self.folder / "stopped").touch()
            os.killpg(int((self.folder / "pid").read_text()), signal.SIGTERM)

    def delete(self) -> None:
        """End it, and remove what it left."""
        self.stop()
        shutil.rmtree(self.folder)

    def _is_alive(self, pid: int) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True


def _written(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)
