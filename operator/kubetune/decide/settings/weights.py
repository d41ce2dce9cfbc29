"""What weights that train in 16 bits don't go with; a sentence or empty."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.decide.settings.effective import in_bf16
from kubetune.decide.settings.own_code import OtherTrainer

FIELD = "method.full.weights bf16"


def weights_problem(settings: JsonObject, trainer: OtherTrainer | None) -> str:
    """What comes together from profile and job is checked here, as it acts."""
    if not in_bf16(settings["method"]):
        return ""
    if trainer is not None:
        return f"{FIELD} is about trainings by trl: remove it, or set trainer.trl to {{}}"
    precision = settings["hyperparameters"]["precision"]
    if precision not in ("auto", "bf16"):
        return (
            f"{FIELD} is computed in bf16, and hyperparameters.precision is {precision}: set it to"
            " auto or bf16, or remove method.full.weights"
        )
    arguments = ((settings.get("trainer") or {}).get("trl") or {}).get("arguments") or {}
    if "optim" in arguments:
        return (
            f"{FIELD} has an optimizer of its own, and trainer.trl.arguments.optim is"
            f" {arguments['optim']}: remove one of them"
        )
    if settings.get("strategy") == "fsdp2":
        return f"{FIELD} isn't sharded by strategy fsdp2: use ddp, or weights fp32"
    return ""
