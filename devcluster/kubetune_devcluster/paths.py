"""Folders of the local cluster on disk.

*Home* holds one cluster (state, certificates, logs) and goes away with ``kubetune down --delete``;
the *cache* holds what is expensive to make and can be shared by clusters (binaries, toolchain).
"""

import os
from pathlib import Path


def default_home() -> Path:
    """``$KUBETUNE_HOME``, else ``kubetune`` below the XDG data folder."""
    return _folder("KUBETUNE_HOME", "XDG_DATA_HOME", "~/.local/share")


def default_cache() -> Path:
    """``$KUBETUNE_CACHE``, else ``kubetune`` below the XDG cache folder."""
    return _folder("KUBETUNE_CACHE", "XDG_CACHE_HOME", "~/.cache")


def _folder(own: str, base: str, fallback: str) -> Path:
    if value := os.environ.get(own):
        return Path(value).expanduser().absolute()
    root = os.environ.get(base) or fallback
    return Path(root).expanduser().absolute() / "kubetune"
