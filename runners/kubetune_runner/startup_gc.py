"""Keeps the start of a run short, most of which is imports."""

from __future__ import annotations

import gc

from kubetune.api.run.plan import RunPlan

from kubetune_runner.model import quantization


def begin(plan: RunPlan | None = None) -> None:
    """Until ``over``: what imports make stays, so nobody looks for garbage in it.

    Of a training's packages those are left out that its plan has no use for.
    """
    gc.disable()
    if plan is None:
        return
    # Some optimizers are from bitsandbytes too.
    if plan.training.method != "qlora" and "optim" not in plan.training.arguments:
        quantization.leave_out()


def over() -> None:
    """All is loaded; collect garbage from now on, of what is made from now on."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
