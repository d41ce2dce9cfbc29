"""The words of a workspace for where a run is."""

SCHEDULING = "ENGINE_SCHEDULING"
STARTING = "ENGINE_STARTING"
RUNNING = "ENGINE_RUNNING"
STOPPING = "ENGINE_STOPPING"
SUCCEEDED = "ENGINE_SUCCEEDED"
FAILED = "ENGINE_FAILED"
STOPPED = "ENGINE_STOPPED"
TIMEDOUT = "ENGINE_TIMEDOUT"
ENDED = frozenset({SUCCEEDED, FAILED, STOPPED, TIMEDOUT, "ENGINE_SKIPPED"})


def short(status: str) -> str:
    """The word of API v1 for a status."""
    return status.removeprefix("ENGINE_").lower()
