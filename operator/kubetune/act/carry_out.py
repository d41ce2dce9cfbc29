"""Carries out what was decided; a refusal becomes what the status says about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kubetune.act.effects import (
    CleanUpRefusedError,
    Effects,
    OutputRefusedError,
    StartRefusedError,
    refusal,
)
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import status_of
from kubetune.clients.kubernetes import REFUSALS
from kubetune.decide.decision import Decision
from kubetune.decide.target.refused import (
    change_refused,
    output_refused,
    start_refused,
    stop_refused,
    without_record,
)
from kubetune.decide.waited import give_up_refused
from kubetune.targets.errors import BackendError


class RefusedError(Exception):
    """The cluster or the target refused an effect: what the status says about it."""

    def __init__(self, status: Any, requeue_after: float | None) -> None:
        super().__init__()
        self.status = status
        self.requeue_after = requeue_after


async def carry_out(
    effects: Effects,
    body: JsonObject,
    decision: Decision[Any],
    status: Any,
    place: ComputeTargetSpec | None,
    now: datetime,
) -> bool:
    """Whether something is new; ``status`` is what the decision says. Raises RefusedError."""
    generation, before = body["metadata"]["generation"], status_of(body)
    try:
        return await effects.run(body, decision.effects, status, place)
    except StartRefusedError as refused:
        if not refused.recorded:
            status = without_record(status, before)
        told = start_refused(status, refused.error, generation, now)
        raise _given_up(told, body, refused.error, now) from refused
    except CleanUpRefusedError as refused:
        # What a deleted object would have said in the end isn't true yet.
        so_far = before if "deletionTimestamp" in body["metadata"] else status
        raise RefusedError(*stop_refused(so_far, refused.error, generation, now)) from refused
    except OutputRefusedError as refused:
        raise RefusedError(*output_refused(status, refused.error, generation, now)) from refused
    except REFUSALS as refused:
        error = refusal(body, refused)
        told = change_refused(status, error, generation, now)
        raise _given_up(told, body, error, now) from refused
    except BackendError as error:
        raise RefusedError(*stop_refused(status, error, generation, now)) from error


def _given_up(
    told: tuple[Any, float | None], body: JsonObject, error: BackendError, now: datetime
) -> RefusedError:
    """A start that was refused, maybe for the last time."""
    generation, spec = body["metadata"]["generation"], body["spec"]
    return RefusedError(*give_up_refused(told, spec, error.reason, str(error), generation, now))
