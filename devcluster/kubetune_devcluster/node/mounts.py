"""What a container sees of its volumes: a mount namespace where the system allows one, or links.

`enter` runs in the child between fork and exec (so it uses nothing but system calls), `link` and
`probe` in the node. A mount is a dictionary with `source`, `target` (both absolute) and `readOnly`.
"""

# Plain system calls on purpose, as half of this runs in a forked child.
# ruff: noqa: PTH101, PTH102, PTH103, PTH106, PTH108, PTH110, PTH112, PTH114, PTH115
# ruff: noqa: PTH116, PTH118, PTH120, PTH208, PTH211

import ctypes
import os
import sys
from dataclasses import dataclass, field
from typing import TypedDict

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC = 32, 4096, 16384
_MS_UNBINDABLE, _MS_PRIVATE = 1 << 17, 1 << 18


class Mount(TypedDict):
    source: str
    target: str
    readOnly: bool


@dataclass
class _Point:
    """A path of the container that holds mounts: here, below, or both."""

    mount: Mount | None = None
    children: "dict[str, _Point]" = field(default_factory=dict)


def probe(folder: str) -> bool:
    """Whether mount namespaces work here; tries the whole way, as systems refuse at various steps.

    `folder` is a folder for the trial.
    """
    if sys.platform != "linux":
        return False
    root, source = os.path.join(folder, "root"), os.path.join(folder, "source")
    os.makedirs(root, exist_ok=True)
    os.makedirs(source, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            enter(
                root,
                [{"source": source, "target": "/kubetune-probe/a", "readOnly": True}],
            )
            code = 0 if os.path.isdir("/kubetune-probe/a") else 1
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def enter(root: str, mounts: list[Mount]) -> None:
    """Give this process a file system of its own: the machine's, with the mounts in place.

    It is built on a tmpfs over the folder `root`: the machine's entries are bound into it, and
    folders that lack a mount point are rebuilt there, so that no mount point is ever made on the
    machine itself. What the container writes into a rebuilt folder stays in that tmpfs.
    Raises OSError when the system refuses.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNS)
    except OSError:  # not root, or root without the capability
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, 0, "tmpfs", "mode=0755,size=64m")
    # Unbindable, or binding the folder that holds `root` would copy all mounts made so far.
    _mount("none", root, _MS_UNBINDABLE)
    top = _Point()
    for mount in mounts:
        point = top
        for name in os.path.realpath(mount["target"]).strip("/").split("/"):
            point = point.children.setdefault(name, _Point())
        point.mount = mount
    _rebuild(top, "/", root)
    os.chroot(root)
    os.chdir("/")


def link(root: str, mounts: list[Mount]) -> None:
    """Make each mount reachable as root + target by a symbolic link; read-only isn't enforced."""
    for mount in sorted(mounts, key=lambda mount: mount["target"].count("/")):
        path = root + mount["target"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path):
            os.unlink(path)
        elif os.path.isdir(path):
            os.rmdir(path)  # a mount point that came with the volume around it
        os.symlink(mount["source"], path)


def _rebuild(point: _Point, old: str, new: str) -> None:
    """Fill the folder `new` with what `old` has, and with the mounts below the point."""
    for name in os.listdir(old) if os.path.isdir(old) else ():
        if name not in point.children:
            _show(os.path.join(old, name), os.path.join(new, name))
    for name, child in point.children.items():
        source, target = os.path.join(old, name), os.path.join(new, name)
        if child.mount is None and not _has_points(child, source):
            os.mkdir(target)
            if os.path.isdir(source):
                os.chmod(target, os.stat(source).st_mode & 0o7777)
            _rebuild(child, source, target)
        elif child.mount is None:
            os.mkdir(target)
            _mount(source, target, _MS_BIND | _MS_REC)
            _nest(child, target)
        else:
            _place(child, child.mount, target)


def _nest(point: _Point, folder: str) -> None:
    """Put the mounts below the point into a folder that is in its place already."""
    for name, child in point.children.items():
        target = os.path.join(folder, name)
        if child.mount is not None:
            _place(child, child.mount, target)
        else:
            os.makedirs(target, exist_ok=True)
            _nest(child, target)


def _place(point: _Point, mount: Mount, target: str) -> None:
    _make_point(mount["source"], target)
    _mount(mount["source"], target, _MS_BIND | _MS_REC)
    _nest(point, target)
    if mount["readOnly"]:
        # Read-only needs a second call, which must repeat flags that a user may not lift.
        flags = os.statvfs(target).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        _mount("none", target, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | flags)


def _has_points(point: _Point, folder: str) -> bool:
    """Whether all mount points below the point exist in the folder, of the right type."""
    for name, child in point.children.items():
        path = os.path.join(folder, name)
        if child.mount is None:
            if not os.path.isdir(path) or not _has_points(child, path):
                return False
        elif not _same_type(path, child.mount["source"]):
            return False
    return True


def _same_type(path: str, source: str) -> bool:
    return os.path.exists(path) and os.path.isdir(path) == os.path.isdir(source)


def _show(old: str, new: str) -> None:
    """Make one entry of the machine's file system appear at `new`."""
    if os.path.islink(old):
        os.symlink(os.readlink(old), new)
        return
    try:
        _make_point(old, new)
        _mount(old, new, _MS_BIND | _MS_REC)
    except OSError:
        pass  # an entry that went away or that the user may not see is just not shown


def _make_point(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))


def _mount(source: str, target: str, flags: int, kind: str = "none", data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _call(function: str, *arguments: int | bytes) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        number = ctypes.get_errno()
        names = [a.decode() for a in arguments if isinstance(a, bytes)]
        raise OSError(number, f"{function} {' '.join(names[:2])}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
