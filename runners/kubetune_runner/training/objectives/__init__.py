"""What can be optimised: one module for each objective, of the same name.

A module has ``OBJECTIVE``, which tells how encoded rows become trl's table, which trainer and
configuration run, and which metrics are reported. What the operator knows of it as well, such as
the formats of its data, is in the table of ``kubetune.api.training.objectives``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubetune_runner.training.objectives.base import Objective


def load(name: str) -> Objective:
    """The objective of a name; this imports torch."""
    return import_module(f"{__name__}.{name}").OBJECTIVE
