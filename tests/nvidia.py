"""A library that answers as NVIDIA's driver does, for machines without one."""

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("gcc")
SOURCE = """
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
"""


def make_driver(folder: Path, *, version: int, devices: int, status: int = 0) -> dict[str, str]:
    """Compile one into the folder; returns the variables by which a new process finds it."""
    assert COMPILER
    folder.mkdir(parents=True, exist_ok=True)
    values = {"VERSION": version, "DEVICES": devices, "STATUS": status}
    command = [COMPILER, "-shared", "-x", "c", "-", "-o", str(folder / "libcuda.so.1")]
    command += [f"-D{name}={value}" for name, value in values.items()]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    return {"LD_LIBRARY_PATH": str(folder)}
