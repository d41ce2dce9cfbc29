"""What a machine must have before a containerd node is built and started on it."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kubetune_devcluster.errors import LocalClusterError

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")
# A Unix socket's path may have 107 bytes; the longest below the node's folder ends it.
LONGEST_HOME = 107 - len("/containers/containerd.sock.ttrpc")


def missing(home: Path) -> str | None:
    """Why no containerd node can run here with its state in ``home``; None when it can."""
    return next(_problems(home), None)


def require(home: Path) -> None:
    """Raises LocalClusterError when ``missing``."""
    if problem := missing(home):
        raise LocalClusterError(
            f"--node containerd can't run here: {problem} The process node (--node process, the"
            " default) needs none of this."
        )


def _problems(home: Path) -> Iterator[str]:
    if sys.platform != "linux":
        yield f"it needs Linux, and this is {platform.system()}."
        return
    if os.geteuid() != 0:
        yield "it needs root, as it makes network devices, mounts and control groups."
    for program, package in (("runc", "runc"), ("ip", "iproute2")):
        if shutil.which(program, path=search_path()) is None:
            yield f"{program} is not installed (on Debian: apt-get install {package})."
    if unknown := [name for name in CONTROLLERS if not _has_controller(name)]:
        yield f"{CGROUPS} has no control group for {', '.join(unknown)}."
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        yield "the kernel has no overlay file system (modprobe overlay)."
    if len(str(home.absolute())) > LONGEST_HOME:
        yield (
            f"the path {home.absolute()} is too long for sockets below it; choose --home with at"
            f" most {LONGEST_HOME} characters."
        )
    yield from _refusals(home)


def _refusals(home: Path) -> Iterator[str]:
    """What the kernel refuses though the program is root, as in many containers: it is tried."""
    name = f"ktprobe{os.getpid()}"
    if problem := _run("ip", "link", "add", name, "type", "bridge"):
        yield f"no network bridge can be made ({problem})."
    _run("ip", "link", "delete", name)
    try:
        tree = CGROUPS if unified_cgroups() else CGROUPS / "memory"
        (tree / name).mkdir()
        (tree / name).rmdir()
    except OSError as error:
        yield f"no control group can be made ({error})."
    nearest = next(folder for folder in (home, *home.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=name) as folder:
            problem = _overlay(Path(folder))
    except OSError as error:
        problem = str(error)
    if problem:
        yield f"the file system of {nearest} can't be under an overlay ({problem})."


def _overlay(folder: Path) -> str:
    """Mount an overlay over ``folder`` and unmount it; what mount complained about."""
    for part in ("lower", "upper", "work", "merged"):
        (folder / part).mkdir()
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    merged = str(folder / "merged")
    problem = _run("mount", "-t", "overlay", "overlay", "-o", options, merged)
    return problem or _run("umount", merged)


def _run(*command: str) -> str:
    """What a command complained about; empty when it succeeded."""
    result = run(*command)
    return (result.stderr.strip() or f"exit code {result.returncode}") if result.returncode else ""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the system."""
    return subprocess.run(command, env={"PATH": search_path()}, capture_output=True, text=True)


def search_path() -> str:
    """``PATH`` with the folders of system programs, which a user's may lack."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin"])


def unified_cgroups() -> bool:
    """True for version 2 of control groups: one tree for all controllers."""
    return (CGROUPS / "cgroup.controllers").exists()


def _has_controller(name: str) -> bool:
    if unified_cgroups():
        return name in (CGROUPS / "cgroup.controllers").read_text().split()
    return (CGROUPS / name).is_dir()
