"""What there is of each job in the end, and what there should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubetune import names
from kubetune_devcluster.cml.server.records import Run

from tests.chaos.storm.courses import ATTEMPTS, Course, Life, Place, told
from tests.chaos.storm.places import InWorkspace
from tests.chaos.storm.storm import Storm

SKIPPED = "ENGINE_SKIPPED"


@dataclass
class Count:
    """What there is on one target."""

    target: str
    jobs: int = 0
    made: int = 0
    """Jobs of the cluster, or of CML, that were made."""
    expected: int = 0
    doubles: int = 0
    """Jobs of CML that were made beside another, and removed."""
    runs: int = 0
    most_active: int = 0
    versions: int = 0
    moves: int = 0
    left: int = 0
    flaps: int = 0
    wrong: list[str] = field(default_factory=list[str])
    """What isn't as it should be, with the object."""

    def must(self, holds: object, course: str, said: str) -> None:
        """Note what is wrong."""
        if not holds:
            self.wrong.append(f"{self.target} {course}: {said}")


def count(storm: Storm) -> list[Count]:
    """Everything, target by target."""
    return [_of_place(storm, place) for place in storm.places]


def left_over(storm: Storm) -> list[str]:
    """What is there and should not be, which may go by itself for a while yet."""
    return [each for place in storm.places for each in _left(storm, place)]


def _of_place(storm: Storm, place: Place) -> Count:
    courses = [course for course in storm.courses if course.place is place]
    counted = Count(place.name, jobs=len(courses))
    for course in courses:
        counted.must(course.over, course.name, f"is not over: {course.stage}, {_told(course)}")
        if course.life != Life.DELETED:
            _attempts(counted, course)
        _runs(storm, counted, course)
    for registered in sorted({course.registered for course in courses}):
        _registered(storm, counted, registered, courses)
    left = _left(storm, place)
    counted.left = len(left)
    counted.wrong += [f"{place.name}: left over: {each}" for each in left]
    counted.flaps = len(place.record.flaps)
    counted.wrong += [f"{place.name}: {flap}" for flap in place.record.flaps]
    return counted


def _attempts(counted: Count, course: Course) -> None:
    body = course.place.record.jobs.get(course.name) or {}
    attempts = (body.get("status") or {}).get("attempts") or ()
    results = [each["result"] for each in attempts]
    expected = ATTEMPTS[course.life]
    counted.expected += len(expected)
    counted.must(results == expected, course.name, f"attempts {results}: {_told(course)}")


def _runs(storm: Storm, counted: Count, course: Course) -> None:
    place = course.place
    deleted = course.life == Life.DELETED
    # It is deleted while its first attempt runs.
    expected = 1 if deleted else len(ATTEMPTS[course.life])
    if isinstance(place, InWorkspace):
        jobs = place.cml.cml_jobs(course.name)
        runs = _without_taken_back(place.cml.cml_runs(course.name))
        keys = {job.environment.get("KUBETUNE_RUN_KEY", "") for job in jobs}
        active = max((storm.simulator.most_active_of(key) for key in keys), default=0)
        counted.made += len(jobs)
        counted.doubles += len(jobs) - 1
        ran = {run.job_id for run in runs}
        counted.must(len(ran) == 1, course.name, f"runs of {len(ran)} CML jobs")
    else:
        active, runs = place.record.most_running[course.name], place.record.made[course.name]
        counted.made += len(runs)
    counted.runs += len(runs)
    counted.most_active = max(counted.most_active, active)
    counted.must(len(runs) == expected, course.name, f"{len(runs)} runs, not {expected}")
    counted.must(active <= 1, course.name, f"{active} runs at one time")


def _without_taken_back(runs: list[Run]) -> list[Run]:
    """Without what CML skipped, and what was stopped at once since the attempt had its run."""
    found: list[Run] = []
    attempts: set[str] = set()
    for run in runs:
        attempt = run.environment["KUBETUNE_ATTEMPT"]
        if run.status != SKIPPED and not (attempt in attempts and run.stop_asked):
            found.append(run)
            attempts.add(attempt)
    return found


def _registered(storm: Storm, counted: Count, registered: str, courses: list[Course]) -> None:
    mine = [each for each in courses if each.registered == registered]
    expected = sum(each.life != Life.DELETED for each in mine)
    versions, moves = storm.registry.versions(registered), storm.registry.moves(registered)
    counted.versions += len(versions)
    counted.moves += len(moves)
    counted.must(len(versions) == expected, registered, f"versions {versions} of {expected} jobs")
    if not expected:
        counted.must(not moves, registered, f"its alias went to {moves}")
        return
    # Where several register, an alias may pass over a version, but never goes back.
    onwards = moves == sorted(set(moves)) and moves[-1:] == versions[-1:]
    counted.must(onwards, registered, f"its alias went to {moves} of {versions}")
    if not mine[0].shared:
        counted.must(len(moves) == 1, registered, f"its alias moved {len(moves)} times")


def _left(storm: Storm, place: Place) -> list[str]:
    """Of deleted jobs everything, of others what still runs, or is there twice."""
    space, found = place.space, list[str]()
    gone = {
        course.name
        for course in storm.courses
        if course.place is place and course.life == Life.DELETED
    }
    for kind in ("Job", "Pod", "ConfigMap"):
        for item in space.objects(kind):
            owner = (item["metadata"].get("annotations") or {}).get(names.OWNER_NAME, "")
            labels = item["metadata"].get("labels") or {}
            if labels.get(names.OWNER_KIND) == "FineTuneJob" and (
                owner in gone or _works(kind, item)
            ):
                found.append(f"{kind} {item['metadata']['name']} of {owner}")
    if isinstance(place, InWorkspace):
        for course in storm.courses:
            if course.place is place:
                found += _left_in_workspace(place, course)
    return found


def _left_in_workspace(place: InWorkspace, course: Course) -> list[str]:
    there = [job for job in place.cml.cml_jobs(course.name) if job.deleted is None]
    active = [run.id for run in place.cml.cml_runs(course.name) if run.active]
    kept = 0 if course.life == Life.DELETED else 1
    found = [f"run {run} of {course.name}" for run in active]
    if len(there) > kept:
        found += [f"CML job {job.id} of {course.name}" for job in there]
    return found


def _works(kind: str, item: dict[str, Any]) -> bool:
    status = item.get("status") or {}
    if kind == "Job":
        return bool(status.get("active"))
    return kind == "Pod" and status.get("phase") in ("Pending", "Running")


def _told(course: Course) -> str:
    return told(course.place.record.jobs.get(course.name))
