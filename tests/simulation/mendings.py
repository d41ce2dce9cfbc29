"""Mendings that can be taken out again, to show that the explorer finds what they are for.

Each row takes one mechanism out of the operator; ``test_mendings`` expects a counterexample that
violates one of the row's invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from kubetune.act.holds import Holds
from kubetune.clients.watching import Refusals
from kubetune.decide.decision import Decision, parse_time
from kubetune.decide.fine_tune_job import deletion as fine_tune_deletion
from kubetune.decide.fine_tune_job import draft as drafts
from kubetune.decide.fine_tune_job import result as fine_tune_result
from kubetune.decide.fine_tune_job import states as fine_tune_job
from kubetune.decide.fine_tune_job.running import expire
from kubetune.decide.inspected import model
from kubetune.decide.resources import Resource
from kubetune.handlers import Feed
from kubetune.names import RUN_KEY
from kubetune.observe import evaluation as evaluations
from kubetune.observe import fine_tune_job as jobs
from kubetune.observe.run_keys import RunKeys
from kubetune.targets.errors import BackendError
from kubetune.targets.kubernetes import backend as kubernetes
from kubetune.targets.kubernetes.backend import KubernetesBackend
from kubetune.targets.kubernetes.strays import is_loose
from kubetune.targets.values import RunState

from tests.simulation.drawing import draw_schedule
from tests.simulation.schedule import Step
from tests.simulation.watches import EndedError


@dataclass(frozen=True)
class Mending:
    """A mechanism, and what holds no more without it."""

    says: str
    """What the mechanism is there for."""
    invariants: tuple[str, ...]
    steps: tuple[str, ...]
    """Kinds of steps that it takes to miss it: among all it would take more schedules."""
    seed: int
    """One whose schedule shows it; the search begins here, and goes on when steps have changed."""
    out: Callable[[], list[Any]]
    """Patches that take it out."""


@contextmanager
def taken_out(name: str) -> Generator[None]:
    """Take a mending out; none, when the name is empty."""
    with ExitStack() as stack:
        for change in MENDINGS[name].out() if name else ():
            stack.enter_context(change)
        yield


def schedule(seed: int, without: str) -> list[Step]:
    """The schedule of a seed, with the steps that matter when a mending is taken out."""
    return draw_schedule(seed, MENDINGS[without].steps if without else ())


def replaced(place: Any, attribute: str, value: Any) -> Any:
    """A patch of one attribute."""
    return patch.object(place, attribute, value)


# --- how it was before


def _annotation_only(self: RunKeys, job: Resource[Any, Any]) -> str | None:
    key = job.annotations.get(RUN_KEY)
    return key if key and self._is_ours(job, key) else None


def _as_decided(observed: Any, decision: Decision[Any]) -> Decision[Any]:
    return decision


def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _nothing_written(*_: Any, **__: Any) -> bool:
    # What is needed is there.
    return True


_stray_states = kubernetes.stray_states


def _no_orphans(pods: Iterable[Any], *given: Any) -> list[RunState]:
    return _stray_states([pod for pod in pods if not is_loose(pod)], *given)


async def _let_through(self: Refusals, *_: Any) -> None:
    # As kopf's own session does.
    raise EndedError


_finish = fine_tune_result.finish


def _deadline_first(draft: fine_tune_job.Draft) -> Decision[Any]:
    started = parse_time(draft.status.get("startTime"))
    limit = draft.spec.active_deadline_seconds
    if started and limit is not None and draft.now > started + timedelta(seconds=limit):
        return expire(draft)
    return _finish(draft)


_create_or_adopt = KubernetesBackend._create_or_adopt


async def _policy_is_final(self: KubernetesBackend, *given: Any) -> Any:
    try:
        return await _create_or_adopt(self, *given)
    except BackendError as error:
        if "ValidatingAdmissionPolicy" in str(error):
            raise BackendError(error.reason, str(error), retryable=False) from error
        raise


# --- the table

MENDINGS: dict[str, Mending] = {
    "identity": Mending(
        "A PUT of the object takes the annotation, not the run key in status.",
        ("at most one live run", "what says that nothing runs is right"),
        ("put_job", "suspend_job", "crash"),
        8,
        lambda: [
            replaced(RunKeys, "of", _annotation_only),
            replaced(fine_tune_job, "with_identity", _as_decided),
        ],
    ),
    "lists": Mending(
        "What a list of a watch hasn't is gone, though no event told so.",
        ("deletion ends", "a verdict or a stated wait"),
        ("cut_off", "hold_watch", "delete_child", "delete_job", "suspend_job"),
        69,
        lambda: [replaced(Feed, "_lose", _nothing)],
    ),
    "kinds": Mending(
        "A kind that isn't served, as while its CRD is made again, is asked for until it is.",
        ("a verdict or a stated wait", "deletion ends"),
        ("reinstall", "create_job", "create_input", "suspend_job"),
        0,
        lambda: [replaced(Refusals, "tell", _let_through)],
    ),
    "success": Mending(
        "What a run did counts before what the clock says.",
        ("a success counts",),
        ("tracker", "crash", "set_deadline", "clean_up"),
        333,
        lambda: [replaced(fine_tune_result, "finish", _deadline_first)],
    ),
    "clocks": Mending(
        "How long something has waited stands in its status, whatever becomes of the operator.",
        ("a verdict or a stated wait",),
        ("set_limit", "delete_input", "queue", "crash"),
        0,
        lambda: [replaced(drafts, "note", _nothing)],
    ),
    "holds": Mending(
        "Targets and Secrets stay as long as runs in CML need them.",
        ("deletion ends", "what says that nothing runs is right", "a verdict or a stated wait"),
        ("delete_namespace", "delete_input", "delete_job", "crash"),
        113,
        lambda: [replaced(Holds, "_write", _nothing_written)],
    ),
    "places": Mending(
        "Runs are followed, stopped and deleted where they were started.",
        (
            "at most one live run",
            "what says that nothing runs is right",
            "a verdict or a stated wait",
            "a success counts",
        ),
        ("change_target", "delete_job", "suspend_job", "crash"),
        72,
        lambda: [
            replaced(jobs, "recorded_place", _nothing),
            replaced(evaluations, "recorded_place", _nothing),
        ],
    ),
    "refusals": Mending(
        "Whatever the cluster refuses is tried again: an admin may relent.",
        ("a verdict or a stated wait",),
        ("refuse", "crash", "suspend_job"),
        8,
        lambda: [replaced(KubernetesBackend, "_create_or_adopt", _policy_is_final)],
    ),
    "orphans": Mending(
        "Pods that outlive their Job, as an orphaning deletion wants it, are stopped first.",
        ("at most one live run", "what says that nothing runs is right"),
        ("delete_child", "suspend_job", "crash"),
        8,
        lambda: [replaced(kubernetes, "stray_states", _no_orphans)],
    ),
    "repetition": Mending(
        "The tracker is asked before a run is repeated, or a lost one is given up.",
        ("what succeeded is not repeated", "a success counts"),
        ("crash", "hold_watch", "clean_up", "tracker"),
        429,
        lambda: [replaced(fine_tune_job, "seek_finished", _nothing)],
    ),
    "output": Mending(
        "An output Model needs its job no longer, and the time to live waits for it.",
        ("a verdict or a stated wait",),
        ("delete_job", "clean_up", "crash", "set_time_to_live"),
        145,
        lambda: [
            replaced(model, "_kept_uri", _nothing),
            replaced(fine_tune_deletion, "is_stalled", lambda _: True),
        ],
    ),
}
