"""What users do, and what people and controllers do to the operator's own objects."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

from kubetune import names
from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError

from tests.simulation import manifests
from tests.simulation.definitions import LOOK_AGAIN_SECONDS
from tests.simulation.jobs import is_finished, is_terminal
from tests.simulation.manifests import TEAM
from tests.simulation.runs import Script
from tests.simulation.schedule import step
from tests.simulation.world import DURATIONS, ENDS, World

JOBS = ("tune", "other")


def _draw_job(draw: random.Random) -> JsonObject:
    output: JsonObject = {}
    if draw.random() < 0.8:
        output["registry"] = {"alias": "best"} if draw.random() < 0.3 else {}
    if draw.random() < 0.3:
        output["modelName"] = "tuned"
    optional: JsonObject = {
        "output": output or None,
        "ttlSecondsAfterFinished": draw.choice((None, None, None, 0, 60)),
        "activeDeadlineSeconds": draw.choice((None, None, None, 10, 60, 300)),
        "backoffLimit": draw.choice((None, None, 0, 1)),
        "deletionPolicy": draw.choice((None, None, None, "Orphan")),
        "suspend": draw.choice((None, None, None, None, True)),
        "computeTargetRef": draw.choice((None, None, None, {"name": "cloud"})),
        "onOutOfMemory": draw.choice((None, None, None, "Fail", "HalveBatch", "HalveBatch")),
    }
    spec = {field: value for field, value in optional.items() if value is not None}
    script = [draw.choice(DURATIONS), draw.choice(ENDS)]
    return {"name": draw.choice((JOBS[0], JOBS[0], JOBS[1])), "spec": spec, "script": script}


@step(6, _draw_job)
def create_job(world: World, name: str, spec: JsonObject, script: list[Any]) -> None:
    """The script is of the next run: its seconds, and how it ends."""
    world.server.create(manifests.job(name, **spec))
    world.scripts.append(Script(*script))


def _named(draw: random.Random, **choices: tuple[Any, ...]) -> JsonObject:
    name = draw.choice((JOBS[0], JOBS[0], JOBS[1]))
    return {"name": name} | {field: draw.choice(values) for field, values in choices.items()}


@step(6, lambda draw: _named(draw, suspend=(None, None, True, False)))
def put_job(world: World, name: str, suspend: bool | None) -> None:
    """As kubectl replace does: only what the file says stays."""
    there = world.server.get("FineTuneJob", TEAM, name)
    spec = there["spec"] if suspend is None else there["spec"] | {"suspend": suspend}
    body = manifests.manifest("FineTuneJob", name, spec)
    body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
    world.server.replace("FineTuneJob", TEAM, name, body)


@step(8, lambda draw: _named(draw, field=("suspend",), value=(True, False, False)))
def suspend_job(world: World, name: str, field: str, value: Any) -> None:
    _set(world, name, field, value)


@step(3, lambda draw: _named(draw, value=(None, 1, 60, 600)))
def set_deadline(world: World, name: str, value: int | None) -> None:
    _set(world, name, "activeDeadlineSeconds", value)


_LIMITS = ("waitingDeadlineSeconds", "queueDeadlineSeconds")


@step(4, lambda draw: _named(draw, field=_LIMITS, value=(None, 1, 20, 60, 300)))
def set_limit(world: World, name: str, field: str, value: int | None) -> None:
    """How long a job may wait, or queue."""
    _set(world, name, field, value)


@step(1, lambda draw: {"field": draw.choice(_LIMITS), "value": draw.choice((None, 1, 60))})
def limit_evaluation(world: World, field: str, value: int | None) -> None:
    world.server.patch("Evaluation", TEAM, "compare", {"spec": {field: value}})


@step(2, lambda draw: _named(draw, value=(None, 0, 30)))
def set_time_to_live(world: World, name: str, value: int | None) -> None:
    _set(world, name, "ttlSecondsAfterFinished", value)


@step(1, lambda draw: _named(draw, value=("Delete", "Orphan")))
def set_deletion_policy(world: World, name: str, value: str) -> None:
    _set(world, name, "deletionPolicy", value)


def _set(world: World, name: str, field: str, value: Any) -> None:
    world.server.patch("FineTuneJob", TEAM, name, {"spec": {field: value}})


_POLICIES = (None, "Background", "Foreground", "Orphan")


@step(5, lambda draw: _named(draw, policy=(*_POLICIES[:3], *_POLICIES)))
def delete_job(world: World, name: str, policy: str | None) -> None:
    there = world.server.get("FineTuneJob", TEAM, name)
    if policy == "Orphan" or there["spec"].get("deletionPolicy") == "Orphan":
        world.ledger.let_go.add(there["metadata"]["uid"])
    world.server.delete("FineTuneJob", TEAM, name, policy)


_INPUTS: dict[str, tuple[str, str, Callable[[], JsonObject]]] = {
    "rows": ("Dataset", "tickets", manifests.dataset),
    "model": ("Model", "base", manifests.model),
    "target": ("ComputeTarget", "main", manifests.target),
    "cloud": ("ComputeTarget", "cloud", manifests.cloud),
    "key": ("Secret", "cml-key", manifests.secret),
}


def _input(draw: random.Random) -> JsonObject:
    return {"what": draw.choice((*_INPUTS, "target", "cloud"))}


@step(4, _input)
def delete_input(world: World, what: str) -> None:
    kind, name, _ = _INPUTS[what]
    world.server.delete(kind, TEAM, name)


@step(4, _input)
def create_input(world: World, what: str) -> None:
    world.server.create(_INPUTS[what][2]())


@step(2, lambda draw: {"name": draw.choice(("main", "cloud"))})
def change_target(world: World, name: str) -> None:
    """Make a target one of the other type: by a patch, or anew when that is refused."""
    specs = [manifests.target()["spec"], manifests.cloud()["spec"]]
    there = world.server.get("ComputeTarget", TEAM, name)
    other = specs[0] if "cml" in there["spec"] else specs[1]
    gone = dict.fromkeys(there["spec"].keys() - other.keys())
    try:
        world.server.patch("ComputeTarget", TEAM, name, {"spec": {**gone, **other}})
    except ApiError:
        world.server.delete("ComputeTarget", TEAM, name)
        anew = manifests.cloud(name) | {"spec": other}
        anew["metadata"]["annotations"] = there["metadata"].get("annotations") or {}
        world.server.create(anew)


@step(1, lambda draw: {"experiment": draw.choice(("one", "two"))})
def edit_target(world: World, experiment: str) -> None:
    patch = {"spec": {"tracking": {"experiment": experiment}}}
    world.server.patch("ComputeTarget", TEAM, "main", patch)


@step(2, lambda draw: {"deadline": draw.choice((None, None, 60))})
def create_evaluation(world: World, deadline: int | None) -> None:
    spec = {} if deadline is None else {"activeDeadlineSeconds": deadline}
    world.server.create(manifests.evaluation("compare", **spec))


@step(1, lambda draw: {"value": draw.choice((True, False))})
def suspend_evaluation(world: World, value: bool) -> None:
    world.server.patch("Evaluation", TEAM, "compare", {"spec": {"suspend": value}})


@step(1, lambda draw: {})
def delete_evaluation(world: World) -> None:
    world.server.delete("Evaluation", TEAM, "compare")


@step(1, lambda draw: {})
def delete_namespace(world: World) -> None:
    world.server.delete("Namespace", "", TEAM)


@step(
    3,
    lambda draw: {
        "kind": draw.choice(("FineTuneJob", "FineTuneJob", "Dataset", "Model", "ComputeTarget")),
        "seconds": draw.choice((1.0, 10.0, 60.0)),
    },
)
def reinstall(world: World, kind: str, seconds: float) -> None:
    """A CRD is deleted, and as soon as that has happened made again, with objects of its kind."""
    anew = [body for of_kind, _, body in _INPUTS.values() if of_kind == kind]
    if kind == "FineTuneJob":
        anew = [lambda: manifests.job(JOBS[0])]

    def again() -> None:
        if kind in world.server.ending:
            world.later(LOOK_AGAIN_SECONDS, again)
            return
        world.definitions.create(kind)
        world.later(seconds, apply)

    def apply() -> None:
        with contextlib.suppress(ApiError):
            for body in anew:
                world.server.create(body())

    world.definitions.delete(kind)
    world.later(seconds, again)


# --- what people and controllers do to the operator's own objects


def _child(draw: random.Random) -> JsonObject:
    kind = draw.choice(("Job", "Job", "Job", "Pod", "ConfigMap"))
    policy = draw.choice(_POLICIES) if kind == "Job" else None
    return {"kind": kind, "number": draw.randint(0, 3), "policy": policy}


def _children(world: World, kind: str) -> list[JsonObject]:
    return [
        body
        for body in world.server.of_kind(kind, names.RUN_KEY)
        if body["metadata"]["labels"].get(names.PURPOSE) != "inspect"
        and "deletionTimestamp" not in body["metadata"]
    ]


@step(7, _child)
def delete_child(world: World, kind: str, number: int, policy: str | None) -> None:
    found = _children(world, kind)
    if found:
        metadata = found[number % len(found)]["metadata"]
        world.server.delete(kind, TEAM, metadata["name"], policy)


@step(4, lambda draw: {})
def clean_up(world: World) -> None:
    """Delete finished Jobs, as a time to live or a janitor does."""
    for job in _children(world, "Job"):
        if is_finished(job):
            world.server.delete("Job", TEAM, job["metadata"]["name"], "Background")


@step(3, lambda draw: {"number": draw.randint(0, 3)})
def evict(world: World, number: int) -> None:
    found = [pod for pod in _children(world, "Pod") if not is_terminal(pod)]
    if found:
        world.evict(found[number % len(found)]["metadata"]["uid"])


@step(3, lambda draw: {"seconds": draw.choice((5.0, 60.0, 300.0))})
def queue(world: World, seconds: float) -> None:
    """A queue such as Kueue suspends each new Job until there is room."""
    world.queue_holds = True
    world.later(seconds, lambda: admit(world))


def admit(world: World) -> None:
    """The queue lets everything run."""
    world.queue_holds = False
    for job in _children(world, "Job"):
        if job["spec"].get("suspend"):
            world.tell("queue", f"admits {job['metadata']['name']}")
            named = job["metadata"]["name"]
            world.server.patch("Job", TEAM, named, {"spec": {"suspend": False}})


@step(2, lambda draw: {"number": draw.randint(0, 3), "seconds": draw.choice((10.0, 120.0))})
def preempt(world: World, number: int, seconds: float) -> None:
    """The queue takes a Job's place away, and gives it back."""
    found = [job for job in _children(world, "Job") if not is_finished(job)]
    if found:
        name = found[number % len(found)]["metadata"]["name"]
        world.server.patch("Job", TEAM, name, {"spec": {"suspend": True}})
        world.later(seconds, lambda: admit(world))


_REFUSALS = (
    (403, "Forbidden", "exceeded quota: team"),
    (403, "Forbidden", 'admission webhook "policy" denied the request'),
    (422, "Invalid", "ValidatingAdmissionPolicy 'labels' denied the request"),
)


@step(
    4,
    lambda draw: {
        "kind": draw.choice(("Job", "Job", "Pod", "ConfigMap", "Model")),
        "refusal": draw.randrange(len(_REFUSALS)),
        "seconds": draw.choice((5.0, 60.0, 300.0)),
    },
)
def refuse(world: World, kind: str, refusal: int, seconds: float) -> None:
    """Quota or policy refuses a kind for a while."""
    world.refusals[kind] = _REFUSALS[refusal]
    world.later(seconds, lambda: world.refusals.pop(kind, None))


@step(
    3,
    lambda draw: {
        "how": draw.choice(("away", "throttled", "lost", "lost", "mute", "late")),
        "seconds": draw.choice((5.0, 60.0, 300.0)),
    },
)
def cml(world: World, how: str, seconds: float) -> None:
    """The workspace is away, or the next write to it gets no answer."""
    world.cml.trouble = how
    world.disturb(seconds)

    def heal() -> None:
        world.cml.trouble = ""

    world.later(seconds, heal)


@step(1, lambda draw: {"seconds": draw.choice((10.0, 60.0))})
def cml_is_behind(world: World, seconds: float) -> None:
    """What is made shows in lists only later."""
    world.cml.behind_seconds = seconds


@step(1, lambda draw: {"number": draw.randint(0, 3)})
def delete_cml_job(world: World, number: int) -> None:
    """By hand, in the workspace."""
    if world.cml.jobs:
        world.cml.delete_by_hand(list(world.cml.jobs)[number % len(world.cml.jobs)])
