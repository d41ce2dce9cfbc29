"""Build the cluster's Go programs, once per cache.

First step of ``kubetune up``. A Go module beside this file pins every version; its hash names the
folder in the cache, so an upgrade of kubetune builds again only when the module changed. The
control plane (etcd, the Kubernetes servers and kubectl in one binary) is always needed; what a
container node adds is built when somebody asks for one.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from kubetune_devcluster.control_plane.toolchain import Toolchain, find_toolchain
from kubetune_devcluster.errors import LocalClusterError

HERE = Path(__file__).parents[1]
VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Module:
    """A Go module and the programs that are built from it."""

    name: str  # of its folder in the cache
    source: Path
    files: tuple[str, ...]  # what the build depends on
    packages: tuple[str, ...]  # a program each, named as the last part of its path
    programs: tuple[str, ...]  # what the folder in the cache holds
    links: tuple[str, ...] = ()  # further names of the first program
    tags: str = ""


CONTROL_PLANE = Module(
    name="control-plane",
    source=HERE / "control_plane" / "server",
    files=("go.mod", "go.sum", "main.go"),
    packages=(".",),
    programs=("kubetune-control-plane",),
    links=("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
)
KUBELET = Module(
    name="kubelet",
    source=HERE / "containers" / "kubelet",
    files=("go.mod", "go.sum", "main.go"),
    packages=(".",),
    programs=("kubelet",),
)
CONTAINER_RUNTIME = Module(
    name="container-runtime",
    source=HERE / "containers" / "runtime",
    files=("go.mod", "go.sum", "coredns/main.go", "pause/main.go"),
    packages=(
        "./coredns",
        "./pause",
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        "github.com/containernetworking/plugins/plugins/main/bridge",
    ),
    programs=(
        *("coredns", "pause", "containerd", "containerd-shim-runc-v2", "ctr"),
        *("host-local", "bridge"),
    ),
    # Snapshotters that this node doesn't use.
    tags="no_btrfs,no_zfs,no_devmapper,no_aufs,no_blockfile,no_erofs",
)


def programs(module: Module, cache: Path, report: Callable[[str], None]) -> Path:
    """The folder with a module's programs, built if the cache lacks it.

    ``report`` gets one short line of progress at a time. Raises LocalClusterError when the build
    fails; its log stays in the cache.
    """
    target = cache / module.name / _fingerprint(module)
    if (target / module.programs[0]).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # One lock for all modules: a build with a private toolchain ends by removing its cache.
    with _locked(cache / "build.lock", report):
        if not (target / module.programs[0]).exists():
            _build(module, cache, target, report)
    return target


def kubernetes_version() -> str:
    """The Kubernetes version that the module pins, such as ``1.36.3``."""
    return _pinned(CONTROL_PLANE, r"k8s\.io/kubernetes v(\S+)")


def _pinned(module: Module, pattern: str) -> str:
    text = (module.source / "go.mod").read_text()
    match = re.search(pattern, text)
    if match is None:
        raise LocalClusterError(f"{module.source / 'go.mod'} has no line that matches {pattern!r}")
    return match[1]


def _fingerprint(module: Module) -> str:
    digest = hashlib.sha256(f"{platform.system()}/{platform.machine()}".encode())
    for name in module.files:
        digest.update((module.source / name).read_bytes())
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


def _build(module: Module, cache: Path, target: Path, report: Callable[[str], None]) -> None:
    major, minor = _pinned(module, r"(?m)^go (\d+\.\d+)").split(".")
    toolchain = find_toolchain((int(major), int(minor)), cache, report)
    environment = _environment(toolchain, cache)
    log = target.parent / "build.log"
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder,
        log.open("w") as output,
    ):
        known = _packages(module, toolchain, environment, output, report)
        made = Path(folder) / "out"
        made.mkdir()
        # One package is built under the program's own name, several under theirs.
        to = made / module.programs[0] if len(module.packages) == 1 else f"{made}/"
        command = [
            *(toolchain.command, "build", "-v", "-buildvcs=false", "-ldflags", _link_flags()),
            *(f"-tags={module.tags}", "-o", to, *module.packages),
        ]
        compiled = 0
        for line in _lines(module, command, environment, output):
            # With -v the compiler names each package that was not in its cache; other lines
            # are downloads and errors.
            compiled += " " not in line and not line.startswith("#")
            report(f"compiling: {compiled} of at most {known} packages")
        for link in module.links:
            (made / link).symlink_to(module.programs[0])
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
    return (
        f"-s -w -X {VERSION_PACKAGE}.gitVersion=v{version}"
        f" -X {VERSION_PACKAGE}.gitMajor={major} -X {VERSION_PACKAGE}.gitMinor={minor}"
    )


def _packages(
    module: Module,
    toolchain: Toolchain,
    environment: dict[str, str],
    output: TextIO,
    report: Callable[[str], None],
) -> int:
    """Number of packages in the build; downloads the modules on the way."""
    report("reading the module")
    packages = downloads = 0
    command = [toolchain.command, "list", f"-tags={module.tags}", "-deps", *module.packages]
    for line in _lines(module, command, environment, output):
        if line.startswith("go: downloading"):
            downloads += 1
            report(f"downloading modules: {downloads}")
        else:
            packages += 1
    return packages


def _lines(
    module: Module,
    command: Sequence[str | Path],
    environment: dict[str, str],
    output: TextIO,
) -> Iterator[str]:
    with subprocess.Popen(
        command,
        cwd=module.source,
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
