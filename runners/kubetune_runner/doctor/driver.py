"""Prints as JSON what the NVIDIA driver says of itself: ``python driver.py``.

A process of its own: one that has asked the driver may not fork for work on a GPU any more.
Standard library only.
"""

from __future__ import annotations

import ctypes
import json

LIBRARY = "libcuda.so.1"


def main() -> None:
    """Print ``{"missing"}``, or ``{"version", "status", "devices"}``.

    ``version`` is the newest CUDA that the driver knows, as 13020 for 13.2; ``status`` is 0 where
    it works, else CUDA's number of the error.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        print(json.dumps({"missing": str(error)}))
        return
    version, devices = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    status = library.cuInit(0)
    if status == 0:
        status = library.cuDeviceGetCount(ctypes.byref(devices))
    print(json.dumps({"version": version.value, "status": status, "devices": devices.value}))


if __name__ == "__main__":
    main()
