"""Files in place of the image ``python:3.13-slim-trixie``, made of Debian's packages.

The image itself can't be had without a registry of images. What differs from it:
- Python is Debian's, at /usr/bin, with headers from a package of its own; in the image it was
  compiled, with headers, and is at /usr/local. Links have /usr/local/bin lead to Debian's.
- pip may install beside Debian's packages, as in the image, where there are none.
- Debian's packages are of the day of the test; the image's are of the day when it was made.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("ca-certificates", "python3.13", "python3.13-venv", "libpython3.13-dev", "python3-pip")


def missing() -> str:
    """What has to be installed on this machine to make it; else empty."""
    needed = {"debootstrap": "debootstrap", "unshare": "util-linux"}
    return " ".join(package for program, package in needed.items() if not shutil.which(program))


def make(folder: Path) -> None:
    """Fill the folder. Needs root and Debian's package registry."""
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    made = subprocess.run([*command, SUITE, folder, MIRROR], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    for lists in ("var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(folder / lists)
    for marker in folder.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for name in ("python", "python3"):
        (folder / "usr/local/bin" / name).symlink_to("/usr/bin/python3.13")
