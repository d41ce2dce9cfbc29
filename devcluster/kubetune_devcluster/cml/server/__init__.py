"""The simulator of a CML workspace; see ``simulator``."""

from kubetune_devcluster.cml.server.behaviour import Behaviour
from kubetune_devcluster.cml.server.clock import ManualClock, RealClock
from kubetune_devcluster.cml.server.scripts import FOREVER, Script
from kubetune_devcluster.cml.server.simulator import PROJECT, Simulator

__all__ = ["FOREVER", "PROJECT", "Behaviour", "ManualClock", "RealClock", "Script", "Simulator"]
