"""Which settings in force contradict each other where several workers train."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec


def workers_problem(spec: FineTuneJobSpec, settings: JsonObject) -> str:
    """A sentence with the way out, else empty.

    What the API refuses of a job alone may come together from profile and job.
    """
    if settings["workers"] == 1:
        if spec.strategy is None:
            return ""
        return (
            f"strategy {spec.strategy} says how several workers share the training, and there is"
            " one: set workers to 2 or more, or remove it"
        )
    gpus, workers = settings["resources"].get("gpu") or 0, settings["workers"]
    if gpus > 1:
        return (
            f"resources.gpu is {gpus}, and each of several workers uses one: set it to 1, and"
            f" workers to {gpus * workers} to use as many GPUs"
        )
    if settings["strategy"] != "fsdp2":
        return ""
    if settings["method"]["type"] == "qlora":
        return (
            "strategy fsdp2 can't shard the quantized weights of method qlora: use ddp, or method"
            " lora or full"
        )
    if spec.objective != "sft":
        return f"strategy fsdp2 goes with objective sft, and this one is {spec.objective}: use ddp"
    return ""
