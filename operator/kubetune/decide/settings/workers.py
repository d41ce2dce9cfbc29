"""How many processes train, and which settings in force contradict each other where several do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.training.method import EIGHT_BITS
from kubetune.targets.quantities import amount


def processes_of(resources: Mapping[str, Any]) -> int:
    """Processes in each worker: one for each GPU, else as many as are asked for."""
    return resources.get("gpu") or resources.get("processes") or 1


def world_size(settings: Mapping[str, Any]) -> int:
    """All processes that train together."""
    return settings.get("workers", 1) * processes_of(settings["resources"])


def workers_problem(spec: FineTuneJobSpec, settings: JsonObject) -> str:
    """A sentence with the way out, else empty.

    What the API refuses of a job alone may come together from target, profile and job.
    """
    resources = settings["resources"]
    gpus, wanted = resources.get("gpu") or 0, resources.get("processes")
    if wanted and gpus and wanted != gpus:
        return (
            f"resources.processes is {wanted} and resources.gpu is {gpus}, and there is one process"
            " for each GPU: remove processes, or set gpu to 0"
        )
    if wanted and not gpus and wanted > amount(resources["cpu"]):
        # They would take turns, and each step waits for the last of them.
        return (
            f"resources.processes is {wanted} and resources.cpu is {resources['cpu']}, and each"
            f" process needs a CPU of its own: set cpu to {wanted}, or lower processes"
        )
    if world_size(settings) == 1:
        if spec.strategy is None:
            return ""
        return (
            f"strategy {spec.strategy} says how several processes share the training, and there is"
            " one: set workers, resources.gpu or resources.processes to 2 or more, or remove it"
        )
    if settings["strategy"] != "fsdp2":
        return ""
    quantization = settings["method"].get("quantization") or {}
    if quantization.get("bits") == EIGHT_BITS:
        return (
            "strategy fsdp2 can't shard weights of 8 bits, which are no numbers that processes can"
            " share out: use ddp, or set method.quantization.bits to 4"
        )
    return ""
