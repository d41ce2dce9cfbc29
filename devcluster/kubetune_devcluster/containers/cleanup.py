"""Processes, mounts, control groups and links that a node's servers leave when they end.

In order, they have taken most of it away themselves; after a crash, all of it may be there.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

from kubetune_devcluster.containers.requirements import CGROUPS, run, unified_cgroups
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.processes import wait_until

CONTROLLERS = ("cpuset", "cpu", "memory", "pids", "io")
CONTAINER_LOGS = Path("/var/log/containers")
CNI_RESULTS = Path("/var/lib/cni/results")
MOUNTS = Path("/proc/self/mounts")
KILL_SECONDS = 10


def make_control_groups(name: str) -> None:
    """The control group that holds all pods of a node, in each tree of this machine."""
    if unified_cgroups():
        for group in (CGROUPS, CGROUPS / name):
            group.mkdir(exist_ok=True)
            available = (group / "cgroup.controllers").read_text().split()
            wanted = [f"+{one}" for one in CONTROLLERS if one in available]
            (group / "cgroup.subtree_control").write_text(" ".join(wanted))
        return
    for tree in CGROUPS.iterdir():
        if tree.is_symlink() or not (tree / "cgroup.procs").exists():
            continue
        (tree / name).mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (tree / file).exists():  # a new group of this tree has no processors at first
                (tree / name / file).write_text((tree / file).read_text())


def kill_pods(control_group: str, socket: Path) -> None:
    """End every process of the node's pods, and the shims that watch them."""

    def none_left() -> bool:
        pids = {*_members(control_group), *_shims(socket)}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    if not wait_until(none_left, KILL_SECONDS):
        raise LocalClusterError(
            f"processes of pods don't end: {sorted(_members(control_group))}. Repeat the"
            " command once they are gone."
        )


def shim_sockets(folder: Path) -> list[Path]:
    """Sockets outside of the node's folder that its shims listen on."""
    found: list[Path] = []
    for file in folder.glob("state/io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            address = json.loads(file.read_text())["address"]
            found.append(Path(address.removeprefix("unix://")))
    return found


def unmount(folder: Path) -> None:
    """Unmount all that is mounted below ``folder``: volumes, root file systems, namespaces."""
    for mount in reversed(mounts_below(folder)):
        lazy = "-l"  # whoever still uses it keeps it until the end
        run("umount", lazy, str(mount))
    require_unmounted(folder)


def require_unmounted(folder: Path) -> None:
    """Raises LocalClusterError while anything is mounted below ``folder``.

    Whoever removes the folder would remove what is mounted there: the files behind volumes.
    """
    if left := mounts_below(folder):
        raise LocalClusterError(
            f"still mounted below {folder}: {', '.join(map(str, left))}. Unmount them (umount) and"
            " repeat the command."
        )


def mounts_below(folder: Path) -> list[Path]:
    """Mount points below ``folder`` in the order of their mounting."""
    if not MOUNTS.exists():
        return []
    # Spaces and the like are written as octal numbers.
    points = (
        line.split(" ")[1].encode().decode("unicode_escape")
        for line in MOUNTS.read_text().splitlines()
    )
    below = f"{folder}{os.sep}"
    return [Path(point) for point in points if point.startswith(below)]


def remove_control_groups(name: str) -> None:
    """Remove the node's control groups, which must have no processes."""
    for top in _groups(name):
        for group, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(group).rmdir()


def remove_traces(folder: Path, network: str, sockets: list[Path]) -> None:
    """Remove what is outside of the node's folder, and what is only good for running pods."""
    for socket in sockets:
        socket.unlink(missing_ok=True)
    for link in CONTAINER_LOGS.glob("*.log") if CONTAINER_LOGS.is_dir() else ():
        if link.is_symlink() and link.readlink().is_relative_to(folder):
            link.unlink()
    for result in CNI_RESULTS.glob(f"{network}-*") if CNI_RESULTS.is_dir() else ():
        result.unlink()
    for name in ("state", "addresses"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("containerd.sock", "containerd.sock.ttrpc"):
        (folder / name).unlink(missing_ok=True)


def _members(control_group: str) -> set[int]:
    pids: set[int] = set()
    for top in _groups(control_group):
        for group, _, files in os.walk(top):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    pids.update(map(int, (Path(group) / "cgroup.procs").read_text().split()))
    return pids - {0}


def _shims(socket: Path) -> Iterator[int]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if f"{command[0] if command else ''}".endswith("containerd-shim-runc-v2") and (
                str(socket) in command
            ):
                yield process.pid


def _groups(name: str) -> list[Path]:
    return [path for path in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if path.is_dir()]
