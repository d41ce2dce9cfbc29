"""What may happen in a schedule, and how a schedule is drawn.

A step is a name with arguments, all drawn beforehand, so that leaving out other steps doesn't
change it. What isn't possible when its time has come doesn't happen.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune import names
from kubetune.clients.kubernetes import ApiError
from kubetune.handlers import WATCHED

from tests.simulation import manifests
from tests.simulation.definitions import LOOK_AGAIN_SECONDS
from tests.simulation.jobs import is_finished, is_terminal
from tests.simulation.manifests import TEAM
from tests.simulation.network import MODES, Trouble
from tests.simulation.runs import Script
from tests.simulation.world import DURATIONS, ENDS, World

JsonObject = dict[str, Any]

PAUSES = (0.0, 0.05, 0.3, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
JOBS = ("tune", "other")
REINSTALLED = 0.05
"""Of so many schedules a CRD goes and comes back; one takes minutes, and much with it."""


@dataclass(frozen=True)
class Step:
    """Something that happens some seconds after what came before."""

    pause: float
    name: str
    arguments: JsonObject

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"after {self.pause:g} s {self.name}({given})"


@dataclass(frozen=True)
class _Kind:
    weight: int
    draw: Callable[[random.Random], JsonObject]
    act: Callable[..., None]


_KINDS: dict[str, _Kind] = {}


def _step(
    weight: int, draw: Callable[[random.Random], JsonObject]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(act: Callable[..., None]) -> Callable[..., None]:
        _KINDS[act.__name__] = _Kind(weight, draw, act)
        return act

    return register


def perform(world: World, step: Step) -> None:
    """Have a step happen; refusals by the API server are the users' problem."""
    world.tell("STEP", str(step))
    try:
        _KINDS[step.name].act(world, **step.arguments)
    except ApiError as refused:
        world.tell("users", f"are refused: {refused}")


def draw_schedule(seed: int, among: Sequence[str] = ()) -> list[Step]:
    """The steps of a seed, of these kinds or of all. The first one makes a job."""
    draw = random.Random(f"schedule {seed}")
    kinds = list(among) or [kind for kind in _KINDS if kind != "reinstall"]
    weights = [_KINDS[kind].weight for kind in kinds]
    chosen = ["create_job", *draw.choices(kinds, weights, k=draw.randint(2, 9))]
    steps = [Step(draw.choice(PAUSES), name, _KINDS[name].draw(draw)) for name in chosen]
    if draw.random() < REINSTALLED and not among:
        again = Step(draw.choice(PAUSES), "reinstall", _KINDS["reinstall"].draw(draw))
        steps.insert(draw.randint(1, len(steps)), again)
    return steps


# --- users


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
    }
    spec = {field: value for field, value in optional.items() if value is not None}
    script = [draw.choice(DURATIONS), draw.choice(ENDS)]
    return {"name": draw.choice((JOBS[0], JOBS[0], JOBS[1])), "spec": spec, "script": script}


@_step(6, _draw_job)
def create_job(world: World, name: str, spec: JsonObject, script: list[Any]) -> None:
    world.server.create(manifests.job(name, **spec))
    world.scripts.append(Script(*script))


def _named(draw: random.Random, **choices: tuple[Any, ...]) -> JsonObject:
    name = draw.choice((JOBS[0], JOBS[0], JOBS[1]))
    return {"name": name} | {field: draw.choice(values) for field, values in choices.items()}


@_step(6, lambda draw: _named(draw, suspend=(None, None, True, False)))
def put_job(world: World, name: str, suspend: bool | None) -> None:
    """As kubectl replace does: only what the file says stays."""
    there = world.server.get("FineTuneJob", TEAM, name)
    spec = there["spec"] if suspend is None else there["spec"] | {"suspend": suspend}
    body = manifests.manifest("FineTuneJob", name, spec)
    body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
    world.server.replace("FineTuneJob", TEAM, name, body)


@_step(8, lambda draw: _named(draw, field=("suspend",), value=(True, False, False)))
def suspend_job(world: World, name: str, field: str, value: Any) -> None:
    _set(world, name, field, value)


@_step(3, lambda draw: _named(draw, value=(None, 1, 60, 600)))
def set_deadline(world: World, name: str, value: int | None) -> None:
    _set(world, name, "activeDeadlineSeconds", value)


@_step(2, lambda draw: _named(draw, value=(None, 0, 30)))
def set_time_to_live(world: World, name: str, value: int | None) -> None:
    _set(world, name, "ttlSecondsAfterFinished", value)


@_step(1, lambda draw: _named(draw, value=("Delete", "Orphan")))
def set_deletion_policy(world: World, name: str, value: str) -> None:
    _set(world, name, "deletionPolicy", value)


def _set(world: World, name: str, field: str, value: Any) -> None:
    world.server.patch("FineTuneJob", TEAM, name, {"spec": {field: value}})


_POLICIES = (None, "Background", "Foreground", "Orphan")


@_step(5, lambda draw: _named(draw, policy=(*_POLICIES[:3], *_POLICIES)))
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


@_step(4, _input)
def delete_input(world: World, what: str) -> None:
    kind, name, _ = _INPUTS[what]
    world.server.delete(kind, TEAM, name)


@_step(4, _input)
def create_input(world: World, what: str) -> None:
    world.server.create(_INPUTS[what][2]())


@_step(2, lambda draw: {"name": draw.choice(("main", "cloud"))})
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


@_step(1, lambda draw: {"experiment": draw.choice(("one", "two"))})
def edit_target(world: World, experiment: str) -> None:
    patch = {"spec": {"tracking": {"experiment": experiment}}}
    world.server.patch("ComputeTarget", TEAM, "main", patch)


@_step(2, lambda draw: {"deadline": draw.choice((None, None, 60))})
def create_evaluation(world: World, deadline: int | None) -> None:
    spec = {} if deadline is None else {"activeDeadlineSeconds": deadline}
    world.server.create(manifests.evaluation("compare", **spec))


@_step(1, lambda draw: {"value": draw.choice((True, False))})
def suspend_evaluation(world: World, value: bool) -> None:
    world.server.patch("Evaluation", TEAM, "compare", {"spec": {"suspend": value}})


@_step(1, lambda draw: {})
def delete_evaluation(world: World) -> None:
    world.server.delete("Evaluation", TEAM, "compare")


@_step(1, lambda draw: {})
def delete_namespace(world: World) -> None:
    world.server.delete("Namespace", "", TEAM)


@_step(
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


@_step(7, _child)
def delete_child(world: World, kind: str, number: int, policy: str | None) -> None:
    found = _children(world, kind)
    if found:
        metadata = found[number % len(found)]["metadata"]
        world.server.delete(kind, TEAM, metadata["name"], policy)


@_step(4, lambda draw: {})
def clean_up(world: World) -> None:
    """Delete finished Jobs, as a time to live or a janitor does."""
    for job in _children(world, "Job"):
        if is_finished(job):
            world.server.delete("Job", TEAM, job["metadata"]["name"], "Background")


@_step(3, lambda draw: {"number": draw.randint(0, 3)})
def evict(world: World, number: int) -> None:
    found = [pod for pod in _children(world, "Pod") if not is_terminal(pod)]
    if found:
        world.evict(found[number % len(found)]["metadata"]["uid"])


@_step(3, lambda draw: {"seconds": draw.choice((5.0, 60.0, 300.0))})
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


@_step(2, lambda draw: {"number": draw.randint(0, 3), "seconds": draw.choice((10.0, 120.0))})
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


@_step(
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


@_step(
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


@_step(1, lambda draw: {"seconds": draw.choice((10.0, 60.0))})
def cml_is_behind(world: World, seconds: float) -> None:
    """What is made shows in lists only later."""
    world.cml.behind_seconds = seconds


@_step(1, lambda draw: {"number": draw.randint(0, 3)})
def delete_cml_job(world: World, number: int) -> None:
    """By hand, in the workspace."""
    if world.cml.jobs:
        world.cml.delete_by_hand(list(world.cml.jobs)[number % len(world.cml.jobs)])


# --- the operator and its connections


def _crash(draw: random.Random) -> JsonObject:
    return {"restart": draw.choice((0.5, 5.0, 60.0, 400.0))}


@_step(5, _crash)
def crash(world: World, restart: float) -> None:
    world.restart_after = restart
    world.crash()


@_step(7, lambda draw: {"skip": draw.choice((0, 0, 1, 1, 2, 3, 4, 5, 7, 9)), **_crash(draw)})
def crash_at_effect(world: World, skip: int, restart: float) -> None:
    """Before or after one of the next effects."""
    world.restart_after = restart
    world.crash_after = skip


@_step(6, lambda draw: {"mode": draw.choice(MODES), "skip": draw.choice((0, 0, 0, 1, 1, 2, 3))})
def trouble(world: World, mode: str, skip: int) -> None:
    world.troubles.append(Trouble(mode, skip))
    world.disturb(60.0)


@_step(
    4,
    lambda draw: {
        "kind": draw.choice(("Job", "Job", "Pod", "FineTuneJob", *WATCHED)),
        "seconds": draw.choice((1.0, 10.0, 60.0, 200.0)),
        "forget": draw.random() < 0.5,
    },
)
def hold_watch(world: World, kind: str, seconds: float, forget: bool) -> None:
    """A watch is silent for a while, or breaks and is listed anew."""
    if world.operator:
        _blind(world, seconds)
        world.operator.watches[kind].hold(seconds, forget=forget)


@_step(3, lambda draw: {"seconds": draw.choice((5.0, 40.0, 200.0)), "forget": draw.random() < 0.7})
def cut_off(world: World, seconds: float, forget: bool) -> None:
    """The operator and the API server lose each other."""
    world.cut_off = True
    _blind(world, seconds)
    for watch in world.operator.watches.values() if world.operator else ():
        watch.hold(seconds, forget=forget)

    def back() -> None:
        world.cut_off = False

    world.later(seconds, back)


def _blind(world: World, seconds: float) -> None:
    world.disturb(seconds)
    world.blind_until = max(world.blind_until, world.now_seconds() + seconds)


@_step(
    6,
    lambda draw: {
        "how": draw.choice(("away", "away", "slow", "refusing", "lossy")),
        "seconds": draw.choice((5.0, 60.0, 200.0, 600.0)),
    },
)
def tracker(world: World, how: str, seconds: float) -> None:
    world.tracker.trouble = how

    def heal() -> None:
        world.tracker.trouble = ""

    world.later(seconds, heal)


def heal(world: World) -> None:
    """No more faults; what was ended starts again."""
    world.tell("STEP", "everything heals")
    world.troubles.clear()
    world.crash_after = None
    world.restart_after = 0.5
    world.refusals.clear()
    world.tracker.trouble = world.cml.trouble = ""
    world.cml.behind_seconds = 0.0
    with contextlib.suppress(ApiError):
        admit(world)
    world.start_operator()
