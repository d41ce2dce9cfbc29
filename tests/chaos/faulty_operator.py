"""The operator with a fault at one of its writes: it dies there, or is told a failure.

    FAULT_PHASE=before|after FAULT_PATH=TEXT FAULT_WRITE=3 FAULT_KIND=kill python faulty_operator.py

A write is a request to the API server or to MLflow other than GET. Those count whose address or
body names FAULT_PATH; before or after the effect of number FAULT_WRITE the process kills itself.
With FAULT_KIND=fail it is told that the connection broke, at number N for the object named
FAULT_PATH-N, so that each object has its own fault.
"""

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from kubetune.cli import main

Request = Callable[..., Awaitable[Any]]

BEFORE = os.environ["FAULT_PHASE"] == "before"
KILL = os.environ["FAULT_KIND"] == "kill"
NAME = re.compile(re.escape(os.environ["FAULT_PATH"]) + (r"(?![\w])" if KILL else r"-(\d+)(?!\d)"))
WRITE = int(os.environ.get("FAULT_WRITE", "0"))
seen: Counter[str] = Counter()


def fault_is_due(method: str, url: str, body: object) -> bool:
    """Count a write and tell whether the fault is at it."""
    if method == "GET" or "search" in url:
        return False
    found = NAME.search(url) or NAME.search(json.dumps(body, default=str))
    if not found:
        return False
    seen[found[0]] += 1
    return seen[found[0]] == (WRITE if KILL else int(found[1]))


def fail() -> None:
    if KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    raise aiohttp.ServerDisconnectedError("the connection broke, as the test asked for")


original: Request = aiohttp.ClientSession._request


async def request(session: aiohttp.ClientSession, method: str, url: Any, **given: Any) -> Any:
    due = fault_is_due(method, str(url), given.get("json"))
    if due and BEFORE:
        fail()
    response = await original(session, method, url, **given)
    if due:
        await response.read()
        fail()
    return response


aiohttp.ClientSession._request = request  # pyright: ignore[reportAttributeAccessIssue]
main()
