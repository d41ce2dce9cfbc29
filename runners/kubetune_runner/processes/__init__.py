"""Processes that a run starts: one for each GPU or share of the CPUs, or the user's code.

They live and die together, and with the run.
"""

from __future__ import annotations

import os

from kubetune.api.run.plan import ENV_PROCESS, RunPlan


def is_process() -> bool:
    """Whether this is one of several processes that a run has started."""
    return ENV_PROCESS in os.environ


def is_first_process() -> bool:
    """Whether it is the one of its worker that speaks for all."""
    return os.environ.get(ENV_PROCESS) == "0"


def launches(plan: RunPlan) -> bool:
    """Whether this process starts those that train; user's code is started in any case."""
    own = plan.training.script is not None or plan.training.axolotl is not None
    return plan.processes > 1 and not own and not is_process()
