"""The real operator as a process of the tests, which can be killed and started again."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.support import eventually

LOOPBACK = "127.0.0.0/8,::1"
COMMAND = (sys.executable, "-m", "kubetune.cli")


class Operator:
    """At most one operator of a cluster; its log grows over all starts."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.log = folder / "operator.log"
        self._kubeconfig = cluster.kubeconfig
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._environment: dict[str, str] | None = None

    def start(
        self,
        command: tuple[str, ...] = COMMAND,
        environment: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Start it and return once it serves; it lists the objects meanwhile."""
        self.stop()
        self._port, self._environment = _free_port(), environment
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "operator", "--health-port", str(self._port), *arguments],
                env={
                    **os.environ,
                    "KUBECONFIG": str(self._kubeconfig),
                    # Servers of the tests are on loopback, where no operator connects unasked.
                    "KUBETUNE_EGRESS_ALLOW": LOOPBACK,
                    # Seconds of the defaults that tests would only wait for.
                    "KUBETUNE_TRACKING_POLL_SECONDS": "1",
                    "KUBETUNE_TARGET_PROBE_SECONDS": "5",
                    "KUBETUNE_RETRY_SECONDS": "1",
                    **(environment or {}),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: self._healthy() or self.ended(), 60)

    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """It does nothing within the block, not even notice that it doesn't, and goes on then."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.go_on()

    def halted(self) -> bool:
        """Whether it is stopped by a signal, so that it does nothing, and has not ended."""
        if self.ended():
            return False
        assert self._process
        status = Path(f"/proc/{self._process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    def go_on(self) -> None:
        """Have it go on where it was halted."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """No operator runs within the block; afterwards one with the same settings."""
        self.stop()
        try:
            yield
        finally:
            self.start(environment=self._environment)

    @contextlib.contextmanager
    def crashed(self) -> Generator[None]:
        """The same for one that had no time to end in order."""
        self.kill()
        try:
            yield
        finally:
            self.start(environment=self._environment)

    @contextlib.contextmanager
    def without(self, *variables: str) -> Generator[None]:
        """Another one within the block, which lacks these settings."""
        before = self._environment or {}
        self.start(environment={key: before[key] for key in before.keys() - set(variables)})
        try:
            yield
        finally:
            self.start(environment=before)

    def peak_memory(self) -> int:
        """The most bytes that it has held since it was started."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        assert found, status
        return int(found[1]) * 1024

    def metrics(self) -> str:
        """The text of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def known(self, kind: str) -> int:
        """How many objects of a kind it knows of."""
        return self.gauge(f'kubetune_objects{{kind="{kind}"}}')

    def gauge(self, name: str) -> int:
        """The value of a metric."""
        found = re.search(rf"^{re.escape(name)} (\S+)", self.metrics(), re.MULTILINE)
        assert found, name
        return int(float(found[1]))

    def health(self) -> tuple[int, str]:
        """Status and text of /healthz."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/healthz", timeout=5) as ok:
                return ok.status, ok.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def leads(self) -> bool:
        """Whether it says that it is the one that acts."""
        return "\nkubetune_leads 1.0\n" in self.metrics()

    def ready(self) -> bool:
        """Whether it could act, by /readyz."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5):
                return True
        except urllib.error.HTTPError:
            return False

    def log_since(self, offset: int) -> str:
        """What it has logged after so many bytes."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def log_size(self) -> int:
        """Bytes logged so far."""
        return self.log.stat().st_size if self.log.exists() else 0

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the operator did not end on {number.name}") from None

    def _healthy(self) -> bool:
        try:
            return self.health()[0] == 200
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
