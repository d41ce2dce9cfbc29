"""Build the control plane: etcd, the Kubernetes servers and kubectl in one binary, once per cache.

First step of ``kubetune up``. The Go module in ``controlplane/`` pins every version; its hash
names the folder in the cache, so an upgrade of kubetune builds anew only when the module changed.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kubetune.local.errors import LocalClusterError
from kubetune.local.toolchain import Toolchain, find_toolchain

SOURCE = Path(__file__).parent / "controlplane"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
BINARY = "kubetune-control-plane"


def control_plane(cache: Path, report: Callable[[str], None]) -> Path:
    """The folder with the control plane's programs, built if the cache lacks it.

    ``report`` gets one short line of progress at a time. Raises LocalClusterError when the build
    fails; its log stays in the cache.
    """
    target = cache / "control-plane" / _fingerprint()
    if (target / BINARY).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / "lock", report):
        if not (target / BINARY).exists():
            _build(cache, target, report)
    return target


def kubernetes_version() -> str:
    """The Kubernetes version that the module pins, such as ``1.36.3``."""
    return _pinned(r"k8s\.io/kubernetes v(\S+)")


def _pinned(pattern: str) -> str:
    match = re.search(pattern, (SOURCE / "go.mod").read_text())
    if match is None:
        raise LocalClusterError(f"{SOURCE / 'go.mod'} has no line that matches {pattern!r}")
    return match[1]


def _fingerprint() -> str:
    digest = hashlib.sha256(f"{platform.system()}/{platform.machine()}".encode())
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((SOURCE / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path, report: Callable[[str], None]) -> Generator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another build to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(cache: Path, target: Path, report: Callable[[str], None]) -> None:
    major, minor = _pinned(r"(?m)^go (\d+\.\d+)").split(".")
    toolchain = find_toolchain((int(major), int(minor)), cache, report)
    environment = _environment(toolchain, cache)
    log = target.parent / "build.log"
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder,
        log.open("w") as output,
    ):
        packages = _packages(toolchain, environment, output, report)
        command = [
            *(toolchain.command, "build", "-v", "-buildvcs=false", "-ldflags", _link_flags()),
            *("-o", f"{folder}/out/{BINARY}", "."),
        ]
        compiled = 0
        for line in _lines(command, environment, output):
            # With -v the compiler names each package that was not in its cache; other lines
            # are downloads and errors.
            compiled += " " not in line and not line.startswith("#")
            report(f"compiling: {compiled} of at most {packages} packages")
        made = Path(folder) / "out"
        for component in COMPONENTS:
            (made / component).symlink_to(BINARY)
        made.rename(target)
    if toolchain.private:
        # Nobody else uses this compiler's cache, and it is 5 GB.
        _remove_writable(cache / "go-build")


def _environment(toolchain: Toolchain, cache: Path) -> dict[str, str]:
    environment = os.environ | {
        "CGO_ENABLED": "0",  # a static binary that needs no C compiler
        "GOTOOLCHAIN": "local",  # never download another compiler behind our back
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
    }
    if toolchain.private:
        environment |= {
            "GOROOT": str(toolchain.command.parent.parent),
            "GOCACHE": str(cache / "go-build" / "cache"),
            "GOPATH": str(cache / "go-build" / "path"),
        }
    return environment


def _link_flags() -> str:
    """Without the version the server calls itself v0.0.0 and Helm's version checks refuse it."""
    version = kubernetes_version()
    major, minor, _ = version.split(".")
    package = "k8s.io/component-base/version"
    return (
        f"-s -w -X {package}.gitVersion=v{version}"
        f" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    )


def _packages(
    toolchain: Toolchain,
    environment: dict[str, str],
    output: TextIO,
    report: Callable[[str], None],
) -> int:
    """Number of packages in the build; downloads the modules on the way."""
    report("reading the module")
    packages = downloads = 0
    for line in _lines([toolchain.command, "list", "-deps", "."], environment, output):
        if line.startswith("go: downloading"):
            downloads += 1
            report(f"downloading modules: {downloads}")
        else:
            packages += 1
    return packages


def _lines(
    command: Sequence[str | Path], environment: dict[str, str], output: TextIO
) -> Iterator[str]:
    with subprocess.Popen(
        command,
        cwd=SOURCE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        started = time.monotonic()
        try:
            for line in process.stdout or ():
                output.write(line)
                yield line.rstrip()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise LocalClusterError(
            f"'{' '.join(map(str, command[:2]))}' failed after {time.monotonic() - started:.0f} s;"
            f" the output is in {output.name}. Its end:\n{_tail(Path(output.name))}"
        )


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _remove_writable(folder: Path) -> None:
    """Remove a Go cache: its module folders are read-only, which stops rmtree."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
