"""Compiles Triton's own launcher of kernels and calls it, on a machine without a GPU.

Triton compiles ``driver.c`` when a kernel first runs, and links it to the driver's library. One
without functions is put in its place, and what needs no GPU is called: how arguments are packed.
Prints ``OK`` and the folder of the compiled launcher.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Compile by Triton's functions, with its headers and flags, into its cache."""
    from triton import backends, knobs  # pyright: ignore[reportAttributeAccessIssue]
    from triton.runtime import build  # pyright: ignore[reportMissingImports]

    folder = Path(str(backends.__file__)).parent / "nvidia"
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "libcuda.so.1"
        empty = ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(library)]
        subprocess.run([*empty, "-x", "c", "/dev/null"], check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        # Functions of the driver are looked for when they are called, and none is.
        sys.setdlopenflags(os.RTLD_LAZY)
        module: Any = build.compile_module_from_file(
            str(folder / "driver.c"),
            "cuda_utils",
            [str(folder / "lib"), scratch],
            [str(folder / "include")],
            ["libcuda.so.1"],
        )
    packed = module.build_signature_metadata(["*fp32", "i32", "fp64"])
    assert len(packed) == 3, packed
    assert set(packed) == set(module.build_signature_metadata(["fp64", "*fp32", "i32"]))
    print("OK", knobs.cache.dir)


if __name__ == "__main__":
    main()
