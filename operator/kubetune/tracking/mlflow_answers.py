"""What MLflow answers, as values of ours, and conditions of its searches."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.tracking.base import RegisteredVersion, TrackedRun, TrackingError
from kubetune.tracking.values import metric_value

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

UNREADABLE = (AttributeError, ArithmeticError, LookupError, TypeError, ValueError)
"""What comes of an answer that has other fields, or others in them, than MLflow's."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_MAX_VERSION = 2**31 - 1
_MAX_TEXT = 4096


def readable(
    call: Callable[P, CoroutineType[Any, Any, T]],
) -> Callable[P, CoroutineType[Any, Any, T]]:
    """The call with a TrackingError for answers that aren't MLflow's."""

    @functools.wraps(call)
    async def asked(*given: P.args, **named: P.kwargs) -> T:
        try:
            return await call(*given, **named)
        except UNREADABLE as error:
            logger.info("an answer that is none of MLflow's", exc_info=error)
            raise TrackingError(
                "the tracking server's answer is none of MLflow's: a field is missing or can't be"
                " read; check the address"
            ) from None

    return asked


def runs_of(answer: JsonObject) -> list[TrackedRun]:
    """The runs on a page. One that can't be read is somebody's fault, and no reason to see none."""
    found: list[TrackedRun] = []
    for item in answer.get("runs", ()):
        try:
            found.append(run_of(item))
        except UNREADABLE:
            logger.info("a run that can't be read is left out of what was found")
    return found


def run_of(item: JsonObject) -> TrackedRun:
    """A run as the tracker has it."""
    info, data = item["info"], item.get("data", {})
    metrics = data.get("metrics", ())
    tags = _tags(data)
    return TrackedRun(
        run_key=tags.get(plan.TAG_RUN_KEY, ""),
        experiment_id=experiment_id_of(info),
        run_id=_id(info["run_id"]),
        status=_id(info["status"]),
        tags=tags,
        metrics={str(metric["key"]): metric_value(metric.get("value")) for metric in metrics},
        updated_ms=max((int(metric.get("timestamp", 0)) for metric in metrics), default=0),
    )


def experiment_id_of(item: JsonObject) -> str:
    """The id of an experiment, or of a run's."""
    return _id(item["experiment_id"])


def version_of(item: JsonObject) -> RegisteredVersion:
    """A version of a registered model as the tracker has it."""
    version = int(item["version"])
    if not 0 < version <= _MAX_VERSION:
        raise ValueError("no number of a version")
    return RegisteredVersion(
        name=_text(item["name"]),
        version=version,
        run_id=_id(item["run_id"]) if item.get("run_id") else "",
        source=_text(item.get("source", "")),
        status=_id(item.get("status", "READY")),
        tags=_tags(item),
        aliases=tuple(_text(alias) for alias in item.get("aliases", ())),
    )


def _id(value: Any) -> str:
    """An id or another word, which may get into addresses and statuses."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("no id")
    return value


def _text(value: Any) -> str:
    """A text that may get into statuses."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError("no text of one line")
    return value


def _tags(item: JsonObject) -> dict[str, str]:
    return {str(tag["key"]): str(tag.get("value", "")) for tag in item.get("tags", ())}


def tag_is(key: str, value: str) -> str:
    """A condition of a search."""
    return f"tags.`{key}` = {quoted(value)}"


def quoted(value: str) -> str:
    """A text in MLflow's filter language, which knows no escapes."""
    for mark in ("'", '"'):
        if mark not in value:
            return f"{mark}{value}{mark}"
    raise TrackingError(f"{value!r} can't be searched for in MLflow: it has both kinds of quotes")
