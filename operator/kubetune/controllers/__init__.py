"""One controller for each kind: what the loop asks of a kind, bound to its observer and rules."""

from kubetune.controllers.base import Controller
from kubetune.controllers.table import Controllers, Services, controllers

__all__ = ["Controller", "Controllers", "Services", "controllers"]
