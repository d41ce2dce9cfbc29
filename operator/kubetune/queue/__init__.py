"""The work queue, and what bounds waiting for others: fair between namespaces."""

from kubetune.queue.outside import Place, SilentError, background, without_worker
from kubetune.queue.turns import Turns
from kubetune.queue.work_queue import Key, WorkQueue, backoff

__all__ = [
    "Key",
    "Place",
    "SilentError",
    "Turns",
    "WorkQueue",
    "background",
    "backoff",
    "without_worker",
]
