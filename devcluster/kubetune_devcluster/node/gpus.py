"""Hands out the machine's GPUs by index, as the device plugin does on a real node."""

import shutil
import subprocess

from .client import Object

RESOURCE = "nvidia.com/gpu"


class Gpus:
    """The indices 0 to count - 1, each held by at most one pod."""

    def __init__(self, count: int) -> None:
        self._free = set(range(count))
        self._held: dict[str, list[int]] = {}

    def take(self, uid: str, count: int) -> bool:
        """Give the pod `count` GPUs, unless it has some; False if too few are free."""
        if uid in self._held:
            return True
        if count > len(self._free):
            return False
        self.restore(uid, sorted(self._free)[:count])
        return True

    def restore(self, uid: str, indices: list[int]) -> None:
        """Note what a pod was given by an earlier node process."""
        self._held[uid] = indices
        self._free -= set(indices)

    def held(self, uid: str) -> list[int]:
        return self._held.get(uid, [])

    def release(self, uid: str) -> None:
        self._free |= set(self._held.pop(uid, ()))


def gpus_of(pod: Object) -> int:
    """How many GPUs the pod needs: init containers use those of the others before them."""
    init = [_gpus(c) for c in pod["spec"].get("initContainers") or ()]
    return max(sum(_gpus(c) for c in pod["spec"]["containers"]), *init, 0)


def gpu_share(pod: Object, container: Object, held: list[int]) -> list[int]:
    """The container's part of the pod's GPUs."""
    before = 0
    for other in pod["spec"]["containers"]:
        if other["name"] == container["name"]:
            return held[before : before + _gpus(container)]
        before += _gpus(other)
    return held[: _gpus(container)]


def count_gpus() -> int:
    """The number of NVIDIA GPUs that `nvidia-smi` lists; 0 without it."""
    if not shutil.which("nvidia-smi"):
        return 0
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def _gpus(container: Object) -> int:
    return int(((container.get("resources") or {}).get("limits") or {}).get(RESOURCE, 0))
