"""What a run's container has of this machine: system libraries and the Python environment.

A training environment is several gigabytes, so the runner image doesn't hold it. The containers
of the runtime handler ``kubetune-runner`` get it mounted, read-only and in any namespace. The
environment is at a path of its own there, as a pod's volumes may hide where it is on the machine
(a checkout below /tmp).
"""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kubetune_devcluster.containers.images import Image
from kubetune_devcluster.containers.layout import RUNNER_IMAGE
from kubetune_devcluster.errors import LocalClusterError

INSIDE = "/opt/kubetune"
ENVIRONMENT = f"{INSIDE}/environment"
PACKAGES = ("kubetune", "kubetune_runner")
SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
SYSTEM_MOUNTS = ("/usr", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/alternatives")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
# Every run has volumes here.
HIDDEN = (Path("/tmp"), Path("/kubetune"))  # noqa: S108


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine and where a container finds it."""

    source: Path
    target: str


def mounts() -> list[Mount]:
    """All that is mounted into a run's container besides its volumes."""
    system = [Path(path) for path in (*SYSTEM_MOUNTS, *SYSTEM_FILES)]
    # On systems that keep /bin and others apart from /usr they are folders and no links.
    system += [folder for folder in _system_folders() if not folder.is_symlink()]
    same = [Mount(path.resolve(), str(path)) for path in system if path.exists()]
    # Where they are on the machine: a Python finds its libraries by that path.
    same += [Mount(folder, str(folder)) for folder in _interpreters()]
    own = [Mount(Path(sys.prefix), ENVIRONMENT)] if sys.prefix != sys.base_prefix else []
    return same + own + [Mount(root, _source(at)) for at, root in enumerate(_checkouts())]


def image() -> Image:
    """The runner image: a root file system for those mounts."""
    links = {
        folder.name: str(folder.readlink()) for folder in _system_folders() if folder.is_symlink()
    }
    programs = f"{ENVIRONMENT if sys.prefix != sys.base_prefix else sys.base_prefix}/bin"
    return Image(
        name=RUNNER_IMAGE,
        command=["python"],
        environment={
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(_source(at) for at in range(len(_checkouts()))),
            "PYTHONUNBUFFERED": "1",
            "LANG": "C.UTF-8",
        },
        folders={"etc": 0o755, "opt": 0o755, "root": 0o755, "tmp": 0o1777, "var": 0o755},
        links=links,
        files={
            "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nrunner:x:10001:10001::/tmp:/bin/sh\n",
            "etc/group": b"root:x:0:\nrunner:x:10001:\n",
            "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
        },
    )


def _system_folders() -> list[Path]:
    folders = (Path("/") / name for name in SYSTEM_FOLDERS)
    return [folder for folder in folders if folder.exists()]


def _interpreters() -> list[Path]:
    """The installation of the Python behind the environment, by all names it has there."""
    program = Path(sys.prefix) / "bin" / "python"
    named = program.readlink().parents[1] if program.is_symlink() else Path(sys.base_prefix)
    folders = {Path(sys.base_prefix), program.resolve().parents[1]}
    if named.is_absolute():
        folders.add(named)
    folders = {folder for folder in folders if not folder.is_relative_to("/usr")}
    for folder in folders:
        if any(folder.is_relative_to(hidden) for hidden in HIDDEN):
            raise LocalClusterError(
                f"Python is installed in {folder}, and pods have a folder of their own there: use"
                " an environment of a Python that is elsewhere."
            )
    return sorted(folders)


def _checkouts() -> list[Path]:
    """Folders of packages that an environment only refers to, as a checkout's does."""
    roots: list[Path] = []
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.origin:
            continue
        root = Path(found.origin).parents[1]
        inside = any(root.is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix))
        if not inside and root not in roots:
            roots.append(root)
    return roots


def _source(at: int) -> str:
    return f"{INSIDE}/source/{at}"
