"""Whether torch here can use the GPUs that a run was given, asked without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kubetune.api.bounded import file_text, json_object
from kubetune.api.run.plan import ENV_GPUS

from kubetune_runner.doctor import driver
from kubetune_runner.errors import RunError

SECONDS = 120
NO_DEVICE = 100
"""CUDA's number for a driver that works and shows no GPU."""


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says, or why it says nothing."""

    version: int = 0
    """The newest CUDA that it knows, as 13020 for 13.2; 0 without a driver."""
    devices: int = 0
    problem: str = ""

    @property
    def major(self) -> int:
        return self.version // 1000


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this run: how many it was given, and what torch and the driver say."""

    asked: int
    torch: str
    """The CUDA version that torch is built for, as 13.2; empty for one without CUDA."""
    driver: Driver

    @property
    def used(self) -> bool:
        """Whether torch will compute on a GPU, or should."""
        return bool(self.torch) and self.driver.devices > 0

    def problem(self) -> RunError | None:
        """What stands against using them: GpuMissing or DriverTooOld. Another node may do."""
        found, asked = self.driver.devices, f"resources.gpu is {self.asked}"
        if self.asked and not self.torch:
            return RunError(
                "GpuMissing",
                f"{asked}, and torch here is built without CUDA: use the runner image with CUDA,"
                " or remove resources.gpu",
                retryable=True,
            )
        if self.torch and found and self.driver.major < int(self.torch.split(".")[0]):
            return RunError(
                "DriverTooOld",
                f"the node's NVIDIA driver knows CUDA up to {_shown(self.driver.version)}, and"
                f" torch here is built for CUDA {self.torch}: use nodes with a newer driver, or an"
                " image with a torch for that CUDA",
                retryable=True,
            )
        if self.asked > found:
            seen = self.driver.problem or f"this container sees {found}"
            return RunError(
                "GpuMissing",
                f"{asked}, and {seen}: the node needs NVIDIA's driver and container runtime (in"
                " Kubernetes runtimeClassName of the target may have to name it, in CML the"
                " runtime's edition is Nvidia GPU)",
                retryable=True,
            )
        return None

    def shown(self) -> str:
        """In words, for who asked."""
        built = f"torch is built for CUDA {self.torch}" if self.torch else "torch has no CUDA"
        if not self.driver.version:
            return f"{built}; no driver here"
        known = f"the driver knows CUDA {_shown(self.driver.version)}"
        return f"{built}, {known}; {self.driver.devices} here"


def ask() -> Gpus | None:
    """What there is; None where torch isn't for NVIDIA's GPUs or isn't installed."""
    asked = os.environ.get(ENV_GPUS, "")
    built = _torch()
    if built is None:
        return None
    return Gpus(int(asked) if asked.isdecimal() else 0, built, _driver())


def _torch() -> str | None:
    """The CUDA version in torch's own words; None without torch, and with one for other GPUs."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.origin:
        return None
    try:
        text = file_text(Path(found.origin).parent / "version.py")
    except (OSError, ValueError):
        return None
    told = dict(re.findall(r"^(cuda|hip|xpu)\b[^=\n]*= '([\d.]+)", text, flags=re.MULTILINE))
    return None if "hip" in told or "xpu" in told else told.get("cuda", "")


def _driver() -> Driver:
    command = [sys.executable, "-I", "-S", str(Path(driver.__file__))]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        told = json_object(ended.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Driver(problem=f"the NVIDIA driver doesn't answer ({type(error).__name__})")
    if "missing" in told:
        return Driver(problem=f"this container has no NVIDIA driver ({driver.LIBRARY})")
    if status := told["status"]:
        why = "sees no GPU" if status == NO_DEVICE else f"fails with CUDA's error {status}"
        return Driver(told["version"], problem=f"the NVIDIA driver of this container {why}")
    return Driver(told["version"], told["devices"])


def _shown(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
