"""The operator's own Prometheus metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter(
    "kubetune_reconciles_total", "Reconciles by kind and result.", ["kind", "result"]
)
RECONCILE_SECONDS = Histogram(
    "kubetune_reconcile_seconds", "Duration of reconciles by kind.", ["kind"]
)
QUEUE_LENGTH = Gauge("kubetune_queue_length", "Objects that wait for or are in a reconcile.")
QUEUE_OLDEST = Gauge(
    "kubetune_queue_oldest_seconds", "How long the object waits that waits longest for a reconcile."
)
WAITING_OUTSIDE = Gauge(
    "kubetune_reconciles_waiting_outside",
    "Reconciles that wait for a tracking server or workspace, and hold no worker.",
)
LEADS = Gauge("kubetune_leads", "1 while this operator holds the lease, and acts.")
LAST_EVENT = Gauge("kubetune_last_event_timestamp_seconds", "When the last watch event came.")
WATCH_SHOWN = Gauge(
    "kubetune_watch_shown_timestamp_seconds",
    "When a watch has last shown anything: an answer, an event or a bookmark.",
    ["kind", "namespace"],
)
OBJECTS = Gauge("kubetune_objects", "Objects that the operator knows of.", ["kind"])
