"""The stand-in for a CML workspace; see ``stand_in``."""

from tests.cml.server.behaviour import Behaviour
from tests.cml.server.clock import ManualClock, RealClock
from tests.cml.server.scripts import FOREVER, Script
from tests.cml.server.stand_in import PROJECT, StandIn

__all__ = ["FOREVER", "PROJECT", "Behaviour", "ManualClock", "RealClock", "Script", "StandIn"]
