"""Lives of runs in the simulator that tests of the operator give to FineTuneJobs."""

from typing import Any

from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cml.server import FOREVER, Script

from tests.cluster.namespace import TRAINED

RUNNING = "ENGINE_RUNNING"
SCHEDULING = "ENGINE_SCHEDULING"
CRASHED = Outcome(status="failed", reason="DiskFull", message="no space left", retryable=True)
REFUSED = Outcome(status="failed", reason="DatasetChanged", message="other rows than before")


def ended(status: str, outcome: Outcome | None = None, after: float = 0, **usage: Any) -> Script:
    """A run that ends by itself; ``usage`` are fields of its row in the usage list."""
    left = outcome.to_json() if outcome else None
    return Script(steps=((RUNNING, after),), ends=status, outcome=left, usage=usage)


def succeeded(after: float = 0) -> Script:
    """A run that ends well."""
    return ended("ENGINE_SUCCEEDED", TRAINED, after)


def failed(outcome: Outcome | None = None, after: float = 0, **usage: Any) -> Script:
    """A run that fails."""
    return ended("ENGINE_FAILED", outcome, after, **usage)


def staying(*statuses: str) -> Script:
    """A run that goes through these and stays in the last."""
    *before, last = statuses
    return Script(steps=(*((status, 0) for status in before), (last, FOREVER)))


def attempts(body: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Result and reason of each attempt."""
    return [(item["result"], item.get("reason")) for item in body["status"].get("attempts", ())]
