"""The operator that halts at one of its writes, as one whose machine is paused, and notes all.

    HALT_AT="POST jobs #1" HALT_WHEN=before HALT_LOG=FILE python halting_operator.py operator ...

It halts by SIGSTOP, all of it: ``before`` the lease is asked whether the write may be sent, when
it was asked and nothing is ``sent`` yet, or ``after`` the answer. The writes count from the moment
that FILE.armed is there. FILE gets a line for each that is sent, and for the halt.

A write is a request to the API server, to MLflow or to CML that changes something; the lease and
Events are left out.
"""

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import aiohttp
from kubetune.cli import main
from kubetune.clients.cml import CmlClient
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.tracking.rest import RestClient

AT, WHEN = os.environ.get("HALT_AT", ""), os.environ.get("HALT_WHEN", "")
LOG = Path(os.environ["HALT_LOG"])
ARMED = LOG.with_name(LOG.name + ".armed")
HALTED = "halted"
UNTOLD = frozenset({"leases", "events"})
OBJECT = re.compile(r"/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/[^/]+)?/([^/?]+)(?:/[^/]+(/\w+)?)?")

seen: Counter[str] = Counter()
sending: ContextVar[str] = ContextVar("sending", default="")


def note(line: str) -> None:
    """Write it down at once."""
    with LOG.open("a") as log:
        log.write(line + "\n")


def numbered(label: str) -> str:
    """The label with the number of its write; empty as long as writes don't count."""
    if not ARMED.exists():
        return ""
    seen[label] += 1
    return f"{label} #{seen[label]}"


def halt(label: str, when: str) -> None:
    """Stop here when this is the place."""
    if label and (label, when) == (AT, WHEN):
        note(HALTED)
        # To this thread, so that it goes no step further before all of them stand still.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def of_cluster(method: str, path: str, body: Any) -> str:
    """The label of a request to the API server; empty for one that is left out."""
    found = OBJECT.match(path)
    kind, part = (found[1], found[2] or "") if found else (path, "")
    if method == "GET" or kind in UNTOLD:
        return ""
    status = body.get("status") if isinstance(body, dict) else None
    phase = f" {status['phase']}" if status and status.get("phase") else ""
    return f"{method} {kind}{part}{phase}"


Request = Callable[..., Awaitable[Any]]
cluster_request: Request = KubernetesClient.request
tracking_request: Request = RestClient._once  # pyright: ignore[reportPrivateUsage]
http_request: Request = aiohttp.ClientSession._request
workspace_call: Callable[..., Any] = CmlClient._run  # pyright: ignore[reportPrivateUsage]


async def halting(label: str, request: Request, *given: Any, **named: Any) -> Any:
    """A request with the places of a halt before and after it, and in it."""
    label = numbered(label) if label else ""
    halt(label, "before")
    token = sending.set(label)
    try:
        answer = await request(*given, **named)
    finally:
        sending.reset(token)
    halt(label, "after")
    return answer


async def in_cluster(client: Any, method: str, path: str, **named: Any) -> Any:
    label = of_cluster(method, path, named.get("body"))
    return await halting(label, cluster_request, client, method, path, **named)


async def in_tracking(client: Any, method: str, path: str, *given: Any, **named: Any) -> Any:
    reads = method == "GET" or path.endswith("/search")
    place = re.sub(r"^/api/2.0/", "", path)
    place = re.sub(r"(artifacts)/.*", r"\1", place)
    label = "" if reads else f"{method} {place}"
    return await halting(label, tracking_request, client, method, path, *given, **named)


async def sent(session: Any, method: str, url: Any, **named: Any) -> Any:
    if label := sending.get():
        halt(label, "sent")
        note(label)
    return await http_request(session, method, url, **named)


def in_workspace(client: Any, operation: str, run: Any, writes: bool, loop: Any) -> Any:
    label = numbered(f"cml {operation}") if writes else ""
    halt(label, "before")

    def told(api: Any) -> Any:
        if label:
            halt(label, "sent")
            note(label)
        return run(api)

    answer = workspace_call(client, operation, told, writes, loop)
    halt(label, "after")
    return answer


KubernetesClient.request = in_cluster  # pyright: ignore[reportAttributeAccessIssue]
RestClient._once = in_tracking  # pyright: ignore[reportAttributeAccessIssue]
aiohttp.ClientSession._request = sent  # pyright: ignore[reportAttributeAccessIssue]
CmlClient._run = in_workspace  # pyright: ignore[reportAttributeAccessIssue]
main()
