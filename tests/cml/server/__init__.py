"""The simulator of a CML workspace; see ``simulator``."""

from tests.cml.server.behaviour import Behaviour
from tests.cml.server.clock import ManualClock, RealClock
from tests.cml.server.scripts import FOREVER, Script
from tests.cml.server.simulator import PROJECT, Simulator

__all__ = ["FOREVER", "PROJECT", "Behaviour", "ManualClock", "RealClock", "Script", "Simulator"]
