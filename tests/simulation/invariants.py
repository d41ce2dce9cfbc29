"""What holds once the world is quiet: all faults have healed, and nobody has done anything since.

Those that hold at every moment are in ``ledger``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kubetune.api import JsonObject
from kubetune.api.conditions import AT_REST, TERMINAL_PHASES, ConditionType, Phase, Reason
from kubetune.api.kinds.status_types import status_of
from kubetune.decide.decision import condition_in
from kubetune.names import FINALIZER, JOB, RUN_KEY

from tests.simulation.batches import untold_batches
from tests.simulation.manifests import TEAM

if TYPE_CHECKING:
    from tests.simulation.world import World


SIGHT_SECONDS = 30.0
MAX_QUIET_REQUESTS = 60
RUN_KINDS = ("FineTuneJob", "Evaluation")
INPUT_KINDS = ("Dataset", "Model", "ComputeTarget")


def ready_of(body: JsonObject) -> JsonObject:
    """Condition Ready, empty when there is none."""
    conditions: Any = (body.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item["type"] == "Ready"), {})


def is_settled(world: World) -> bool:
    """Whether nothing goes on any more, as far as statuses tell."""
    if any(_hangs(world, body) for body in world.server.objects.values()):
        return False
    if any(run.ended is None for run in world.ledger.runs):
        return False
    return all(
        _explains(world, body)
        for kind in (*RUN_KINDS, *INPUT_KINDS)
        for body in world.server.of_kind(kind)
    )


def check(world: World) -> None:
    """Note in the ledger what doesn't hold."""
    for body in world.server.objects.values():
        if _hangs(world, body):
            world.ledger.violated("deletion ends", f"{_named(body)} is being deleted for ever")
    for kind in (*RUN_KINDS, *INPUT_KINDS):
        for body in world.server.of_kind(kind):
            if not _explains(world, body):
                world.ledger.violated("a verdict or a stated wait", _standing(body))
    for body in world.server.of_kind("FineTuneJob"):
        _check_result(world, body)
        _check_marks(world, body)
        for what in untold_batches(world, body):
            world.ledger.violated("the status tells what an attempt trains with", what)
    _check_versions(world)


def check_quiet(world: World, writes: int, requests: int) -> None:
    """In a stretch of time in which nothing happened nothing was written, and little asked."""
    if writes:
        world.ledger.violated(
            "no write without a change", f"{writes} writes while nothing happened"
        )
    # A missing Secret is read for each target that names it: nothing tells when it comes.
    workspaces = [item for item in world.server.of_kind("ComputeTarget") if "cml" in item["spec"]]
    if requests > MAX_QUIET_REQUESTS * max(len(workspaces), 1):
        world.ledger.violated("little is asked in vain", f"{requests} requests in ten minutes")


# --- deletion ends


def _hangs(world: World, body: JsonObject) -> bool:
    """Whether it is being deleted, and nothing says what that waits for."""
    if "deletionTimestamp" not in body["metadata"]:
        return False
    name = body["metadata"]["name"]
    match body["kind"]:
        case "ComputeTarget":
            return not _is_held(world, body)
        case "Secret":
            targets = world.server.of_kind("ComputeTarget")
            named = [item for item in targets if name in str(item["spec"].get("cml"))]
            return not any(_is_held(world, target) for target in named)
        case _:
            return True


def _is_held(world: World, target: JsonObject) -> bool:
    """Whether a job that tries again once it can has begun there, as the target says.

    It may wait for something else, as for its Dataset, as long as that takes: then it isn't the
    deletion that hangs, and the target's condition names who holds it and the way out.
    """
    users = [
        f"{body['kind']} {TEAM}/{body['metadata']['name']}"
        for kind in RUN_KINDS
        for body in world.server.of_kind(kind)
        if "deletionTimestamp" not in body["metadata"]
        and (status := body.get("status") or {}).get("phase") not in AT_REST
        and (status.get("external") or {}).get("target") == f"ComputeTarget/{_name(target)}"
    ]
    told = condition_in(status_of(target), ConditionType.IN_USE)
    said = told["message"] if told and told["status"] == "True" else ""
    if "deletionTimestamp" not in target["metadata"]:
        return bool(users)
    return bool(users) and all(user in said for user in users)


# --- a verdict or a stated wait


def _explains(world: World, body: JsonObject) -> bool:
    """Whether the status is a verdict, or names what it waits for, and that is so."""
    if "deletionTimestamp" in body["metadata"]:
        return True
    status: JsonObject = body.get("status") or {}
    ready = ready_of(body)
    if not ready or status.get("observedGeneration") != body["metadata"]["generation"]:
        return False
    if body["kind"] in RUN_KINDS:
        if status.get("phase") in TERMINAL_PHASES:
            return True
        if status.get("phase") == "Suspended" and body["spec"].get("suspend"):
            return True
        # No suspension takes back that a run has succeeded, or tells what runs where nobody looks.
        told = status.get("phase") == "Registering" or ready["reason"] in _UNKNOWING
        if body["spec"].get("suspend") and not told:
            return False
        if _is_limited(body, ready["reason"]) and not (told and "external" in status):
            return False
    elif ready["status"] == "True":
        return True
    holds = _WAITS.get(ready["reason"])
    return bool(ready["message"]) and holds is not None and holds(world, body)


def _is_limited(body: JsonObject, reason: str) -> bool:
    """Whether its spec limits for how long it may wait so: in a quiet world that is over."""
    if reason == Reason.PLAN_MISSING:
        return "queueDeadlineSeconds" in body["spec"]
    waits = body["status"].get("phase") in (Phase.PENDING, Phase.PREPARING)
    return waits and "waitingDeadlineSeconds" in body["spec"]


def _missing(kind: str) -> Callable[[World, JsonObject], bool]:
    return lambda world, body: not world.server.of_kind(kind)


def _target_is_missing(world: World, body: JsonObject) -> bool:
    named = (body["spec"].get("computeTargetRef") or {"name": "main"})["name"]
    began = ((body.get("status") or {}).get("external") or {}).get("target") or f"/{named}"
    names = {named, began.split("/")[1]}
    return any(world.server.find("ComputeTarget", TEAM, name) is None for name in names)


def _secret_is_missing(world: World, body: JsonObject) -> bool:
    return world.server.find("Secret", TEAM, "cml-key") is None


def _not_ready(kind: str) -> Callable[[World, JsonObject], bool]:
    return lambda world, body: any(
        ready_of(item).get("status") != "True" for item in world.server.of_kind(kind)
    )


def _plan_is_missing(world: World, body: JsonObject) -> bool:
    """Inputs of the plan lack, or the target leads elsewhere than where the run waits for it."""
    began = ((body.get("status") or {}).get("external") or {}).get("type")
    targets = world.server.of_kind("ComputeTarget")
    moved = any(("cml" if "cml" in item["spec"] else "kubernetes") != began for item in targets)
    return moved or _input_is_missing(world, body)


def _model_is_missing(world: World, body: JsonObject) -> bool:
    return world.server.find("Model", TEAM, "base") is None


def _input_is_missing(world: World, body: JsonObject) -> bool:
    ways = (_missing("Dataset"), _model_is_missing, *map(_not_ready, INPUT_KINDS))
    return _target_is_missing(world, body) or any(way(world, body) for way in ways)


def _model_is_taken(world: World, body: JsonObject) -> bool:
    name = ((body["spec"].get("output") or {}).get("modelName")) or ""
    there = world.server.find("Model", TEAM, name)
    made_by = ((there or {"metadata": {}})["metadata"].get("annotations") or {}).get(JOB)
    if there and made_by != body["metadata"]["name"]:
        return True
    others = [item for item in world.server.of_kind("FineTuneJob") if item is not body]
    return any((item["spec"].get("output") or {}).get("modelName") == name for item in others)


_WAITS: dict[str, Callable[[World, JsonObject], bool]] = {
    Reason.TARGET_MISSING: _target_is_missing,
    Reason.SECRET_MISSING: _secret_is_missing,
    Reason.CREDENTIALS_INVALID: _secret_is_missing,
    Reason.DATASET_MISSING: _missing("Dataset"),
    Reason.MODEL_MISSING: _model_is_missing,
    Reason.TARGET_NOT_READY: _not_ready("ComputeTarget"),
    Reason.DATASET_NOT_READY: _not_ready("Dataset"),
    Reason.MODEL_NOT_READY: _not_ready("Model"),
    Reason.PLAN_MISSING: _plan_is_missing,
    Reason.OUTPUT_MODEL_TAKEN: _model_is_taken,
}
"""What may be waited for in a quiet world, and whether it is so."""
_UNKNOWING = (Reason.TARGET_MISSING, Reason.CREDENTIALS_INVALID)
"""Why nothing is known of a run."""


# --- results


def _check_result(world: World, job: JsonObject) -> None:
    uid, status = job["metadata"]["uid"], job.get("status") or {}
    runs = [run for run in world.ledger.runs if run.owner == uid]
    good = [run for run in runs if run.ended and run.ended.result == "succeeded"]
    phase, name = status.get("phase"), job["metadata"]["name"]
    result: JsonObject = status.get("result") or {}
    if phase == "Succeeded" and not good and not result.get("reused"):
        world.ledger.violated("a verdict has its reason", f"{name} Succeeded without a run")
    if not good:
        return
    first = min(run.ended_at or 0.0 for run in good)
    for run in runs:
        if run.started > first + SIGHT_SECONDS:
            what = f"{run.name} of {name} starts, though a run succeeded at {first:.0f} s"
            world.ledger.violated("what succeeded is not repeated", what)
    if phase in ("Failed", "Cancelled"):
        verdict, at = world.ledger.verdicts[uid]
        if first + SIGHT_SECONDS < at and not world.ledger.blind_verdicts.get(uid):
            reason = (status.get("failure") or {}).get("reason")
            what = f"{name} {verdict} with {reason} at {at:.0f} s; a run succeeded at {first:.0f} s"
            world.ledger.violated("a success counts", what)
    registry = (job["spec"].get("output") or {}).get("registry")
    if phase == "Succeeded" and registry is not None and not result.get("reused"):
        versions = [
            version
            for version in world.tracker.versions.get(f"{TEAM}_{name}", ())
            if version.run_id in {run.tracked for run in good}
        ]
        if len(versions) != 1:
            what = f"{len(versions)} versions for {name}, whose run succeeded"
            world.ledger.violated("registered exactly once", what)


def _check_marks(world: World, job: JsonObject) -> None:
    """What is written outside of status comes back when a PUT has taken it away."""
    status, metadata = job.get("status") or {}, job["metadata"]
    if status.get("phase") in TERMINAL_PHASES or not status.get("attempts"):
        return
    if RUN_KEY not in (metadata.get("annotations") or {}):
        world.ledger.violated("marks come back", f"{metadata['name']} has no run key")
    if FINALIZER not in (metadata.get("finalizers") or ()):
        world.ledger.violated("marks come back", f"{metadata['name']} has no finalizer")


def _check_versions(world: World) -> None:
    for name, versions in world.tracker.versions.items():
        runs = [version.run_id for version in versions]
        if len(set(runs)) != len(runs):
            world.ledger.violated("registered exactly once", f"{name} has versions of {runs}")


def _name(body: JsonObject) -> str:
    return str(body["metadata"]["name"])


def _named(body: JsonObject) -> str:
    return f"{body['kind']} {_name(body)}"


def _standing(body: JsonObject) -> str:
    status, ready = body.get("status") or {}, ready_of(body)
    said = f"{ready.get('reason', 'no reason')}: {ready.get('message', '')}"
    return f"{_named(body)} stays {status.get('phase', '')} ({said})"
