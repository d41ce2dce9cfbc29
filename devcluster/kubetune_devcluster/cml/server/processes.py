"""Runs as real processes, with what a workload of CML finds around it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from kubetune_devcluster.cml import client_package
from kubetune_devcluster.cml.server.place import Place
from kubetune_devcluster.cml.server.records import USER, Run
from kubetune_devcluster.cml.server.statuses import FAILED, STOPPED, SUCCEEDED, TIMEDOUT

LAUNCHER = Path(__file__).with_name("launcher.py")
MLFLOW_PLUGIN = Path(__file__).parent.parent / "mlflow_plugin"
WORKLOAD = Path(__file__).parent.parent / "workload"
# Tells the plugin where the workspace keeps MLflow's files.
STORE_VARIABLE = "CML_SIMULATOR_STORE"

# What a workload gets of the server's own environment: how to find programs and the network.
_KEPT = frozenset({"PATH", "LANG", "TMPDIR", "PYTHONPATH", "PYTHONWARNINGS"}) | {
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
}


class Processes:
    """The processes of a workspace's runs; each is watched by a thread of its own."""

    def __init__(self, workspace: Place) -> None:
        self._workspace = workspace
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []

    def log(self, run_id: str) -> Path:
        """What a run wrote to its output."""
        return self._workspace.folder / "runs" / run_id / "output.log"

    def start(self, run: Run) -> None:
        """Start the script of a run; called with the workspace's lock held."""
        folder = self.log(run.id).parent
        folder.mkdir(parents=True, exist_ok=True)
        run.key = secrets.token_urlsafe(32)
        self._workspace.keys.add(run.key)
        finished = folder / "finished"
        environment = self._environment(run)
        with self.log(run.id).open("wb") as log:
            try:
                process = subprocess.Popen(
                    [sys.executable, LAUNCHER, run.settings["script"], finished],
                    cwd=self._workspace.files(run.project_id),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                # The server takes an environment that the system then refuses.
                run.usage = {"message": f"the container can't start: {error.strerror}"}
                self._workspace.end(run, FAILED, self._workspace.clock.now())
                return
        self._running[run.id] = process
        thread = threading.Thread(
            target=self._watch, args=(run, process, finished), name=f"run {run.id}", daemon=True
        )
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def stop(self, run_id: str, grace: float) -> None:
        """End a process: SIGTERM, and SIGKILL after ``grace`` seconds; no time at 0."""
        process = self._running.get(run_id)
        if process is None:
            return
        if grace <= 0:
            _signal(process, signal.SIGKILL)
            return
        _signal(process, signal.SIGTERM)
        timer = threading.Timer(grace, _kill, (process,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Kill what still runs and wait for it."""
        for process in list(self._running.values()):
            _signal(process, signal.SIGKILL)
        for thread in self._threads:
            thread.join(timeout=30)

    def _watch(self, run: Run, process: subprocess.Popen[bytes], finished: Path) -> None:
        limit = int(run.settings.get("timeout") or 0)
        deadline = time.monotonic() + limit if limit else None
        timed_out = False
        try:
            process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            timed_out = bool(run.settings.get("kill_on_timeout"))
            if timed_out:
                self.stop(run.id, self._workspace.behaviour.process_grace_seconds)
            elif self._workspace.behaviour.timeout_without_kill == "mark":
                run.status = TIMEDOUT
            process.wait()
        # What the script started and left running ends with its pod.
        _signal(process, signal.SIGKILL)
        workspace = self._workspace
        with workspace.lock:
            self._running.pop(run.id, None)
            code = process.returncode
            run.exit_signal = -code if code < 0 else 0
            run.exit_code = 128 - code if code < 0 else code
            status = SUCCEEDED if finished.is_file() and code == 0 else FAILED
            if timed_out:
                status = TIMEDOUT
            elif run.stop_asked is not None:
                status = STOPPED
            workspace.end(run, status, workspace.clock.now())

    def _environment(self, run: Run) -> dict[str, str]:
        workspace = self._workspace
        project = workspace.projects[run.project_id]
        home = str(workspace.files(project.id).resolve())
        parts = urlsplit(workspace.url)
        hub = {name for name in os.environ if name.startswith("HF_") and "TOKEN" not in name}
        kept = {name: os.environ[name] for name in (_KEPT | hub) & set(os.environ)}
        # What a workload image has preinstalled.
        search = [str(client_package.build()), str(MLFLOW_PLUGIN), str(WORKLOAD)]
        outside = kept.pop("PYTHONPATH", "")
        runtime = workspace.catalog.runtime(run.settings["runtime_identifier"])
        given = {
            "PYTHONUNBUFFERED": "1",
            "HOME": home,
            "CDSW_PROJECT_ID": project.id,
            "CDSW_PROJECT": project.name,
            "CDSW_PROJECT_URL": f"{workspace.url}/api/v1/projects/{project.short()['slug']}",
            "CDSW_API_URL": f"{workspace.url}/api/v1",
            "CDSW_APIV2_KEY": run.key,
            "CDSW_DOMAIN": parts.netloc,
            "CDSW_CREATOR": USER["username"],
            "CDSW_ENGINE_ID": run.id.replace("-", ""),
            "CDSW_MASTER_ID": run.id.replace("-", ""),
            "CDSW_MASTER_IP": "127.0.0.1",
            "CDSW_IP_ADDRESS": "127.0.0.1",
            "PROJECT_OWNER": USER["username"],
            "JOB_ARGUMENTS": run.arguments,
            "MLFLOW_TRACKING_URI": "cml://localhost",
            "MLFLOW_REGISTRY_URI": "cml://localhost",
            "ML_RUNTIME_KERNEL": runtime["kernel"],
            "ML_RUNTIME_EDITION": runtime["edition"],
            "ML_RUNTIME_EDITOR": runtime["editor"],
            "ML_RUNTIME_FULL_VERSION": runtime["full_version"],
            STORE_VARIABLE: str(workspace.folder.resolve()),
            "CML_SIMULATOR_JOB_VARIABLES": ",".join(run.environment),
        }
        result = {**kept, **given, **run.environment}
        search = [result.get("PYTHONPATH", ""), *search, outside]
        return {**result, "PYTHONPATH": os.pathsep.join(part for part in search if part)}


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Its group may outlive it; nothing left to signal is what was wanted.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal(process, signal.SIGKILL)
