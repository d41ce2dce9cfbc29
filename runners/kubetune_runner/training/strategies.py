"""How several workers share a model: what was asked for is what must run.

The libraries fall back silently: on a CPU accelerate runs DDP where FSDP2 was asked for, unless
it is told that there is a device for it. So the trainer is looked at once it is prepared.
What only several workers need is imported where it is used.
"""

from __future__ import annotations

from typing import Any

import torch

from kubetune_runner.errors import RunError
from kubetune_runner.training.workers import Workers


def arguments(workers: Workers, *, recomputes: bool) -> dict[str, Any]:
    """Arguments of trl's configuration; ``recomputes`` tells of gradient checkpointing."""
    if _shards(workers):
        return {"fsdp": True, "fsdp_config": {"version": 2}}
    # Looking for weights without gradients breaks checkpointing; transformers knows, but doesn't
    # see it behind an adapter.
    return {"ddp_find_unused_parameters": False} if workers.several and recomputes else {}


def announce(workers: Workers) -> None:
    """Have accelerate use FSDP2 on CPUs too, once the configuration was made.

    It only does so for kinds of devices that it lists; torch shards over gloo just as well.
    """
    if _shards(workers) and not torch.cuda.is_available():
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        shared: dict[str, Any] = PartialState._shared_state
        shared["distributed_type"] = DistributedType.MULTI_GPU


def check(workers: Workers, model: Any) -> None:
    """Look at the model as it trains.

    Raises RunError StrategyNotRun where it isn't shared as was asked for.
    """
    if not workers.several:
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if workers.strategy == "ddp":
        as_asked = isinstance(model, DistributedDataParallel)
    else:
        parts = sum(isinstance(module, FSDPModule) for module in model.modules())
        # The root alone would gather the whole model at once.
        as_asked = parts > 1 and all(map(_is_sharded, model.parameters()))
    if not as_asked:
        raise RunError(
            "StrategyNotRun",
            f"strategy {workers.strategy} was asked for, and the libraries of this runner train"
            f" {type(model).__name__} differently: choose another strategy",
        )


def gather(model: Any, *, keep: bool) -> None:
    """Make a sharded model whole again, in main memory, where ``keep``; all workers must call.

    It can be saved afterwards, and no longer computes.
    """
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    for module in model.modules():
        if isinstance(module, FSDPModule):
            # What a forward left gathered; else saving would shard it again.
            module.reshard()
    whole: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            if not isinstance(value, DTensor):
                continue
            if id(value) not in whole:
                full: torch.Tensor = value.full_tensor().detach()
                full = full.cpu() if keep else full.new_empty(0)
                whole[id(value)] = torch.nn.Parameter(full, value.requires_grad)
            # Not set as an attribute, which tells FSDP.
            module._parameters[name] = whole[id(value)]


def _shards(workers: Workers) -> bool:
    return workers.several and workers.strategy == "fsdp2"


def _is_sharded(value: torch.Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor) and any(place.is_shard() for place in value.placements)
