"""How often the tracker of an Evaluation is asked whose the name is that an alias is moved in."""

from dataclasses import replace
from typing import Any, cast

import pytest
from builders import KEYS, target
from evaluation_objects import evaluation, observed, registered_model
from kubetune.act.evaluation_questions import ask
from kubetune.controllers.evaluation import EvaluationController
from kubetune.decide.decision import AliasMove, FindAlias, FindEvaluation, MoveAlias, Question
from kubetune.decide.evaluation.observed import EvaluationAnswers, ObservedEvaluation
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key
from kubetune.tracking.base import RegisteredVersion, TrackedRun, TrackingError

PROMOTE = {"name": "tickets", "alias": "champion"}
KEY = Key("Evaluation", "team", "compare")


class Server:
    """A tracker that notes what it was asked, and found by a target under the key of the day."""

    def __init__(self) -> None:
        self.key = "tracker-1"
        self.asked: list[str] = []
        self.taken = False

    @property
    def tracker(self) -> "Server":
        return self

    async def of(self, target: Any, namespace: str) -> "Server":
        return self

    async def claim(self, name: str, namespace: str, *, make: bool) -> None:
        self.asked.append(f"claim {name} for {namespace}")
        if self.taken:
            raise TrackingError(f"{name} belongs to another namespace", refused=True)

    async def find_evaluation(self, *_: Any) -> TrackedRun | None:
        self.asked.append("find")

    async def alias_holder(self, name: str, alias: str) -> RegisteredVersion | None:
        self.asked.append("holder")

    async def move_alias(self, move: AliasMove) -> AliasMove:
        self.asked.append("move")
        return replace(move, holder=move.version)


FIND: Question = FindEvaluation("digest", "asked")
HOLDER: Question = FindAlias("tickets", "champion")
MOVE: Question = MoveAlias(AliasMove("tickets", "champion", 2, None, "tag", "note"))
CLAIM = "claim tickets for team"


class Reconciles:
    """The controller's questions, over rounds and reconciles."""

    def __init__(self, server: Server, **fields: Any) -> None:
        self.server = server
        self._trackers = cast("Trackers", server)
        controller = EvaluationController(cast("Any", None), self._trackers, KEYS)
        self._begin = controller.begin
        self.kept: EvaluationAnswers | None = None
        self._observed = self._evaluation(**fields)

    async def reconcile(self, *rounds: Question) -> EvaluationAnswers:
        answers = self._begin(KEY, self.kept)
        for question in rounds:
            answers = await ask(self._trackers, KEYS, self._observed, answers, [question])
        self.kept = answers
        return answers

    def rename(self, name: str) -> None:
        self._observed = self._evaluation(promote=PROMOTE | {"name": name})

    def _evaluation(self, **fields: Any) -> ObservedEvaluation:
        given = evaluation(**{"promote": PROMOTE} | fields)
        models = {name: registered_model(name, 1) for name in ("base", "tuned")}
        return observed(given, models=models, target=target())


@pytest.fixture
def server() -> Server:
    return Server()


async def test_whose_a_name_is_is_asked_once_and_again_before_the_alias_moves(server: Server):
    reconciles = Reconciles(server)
    await reconciles.reconcile(FIND, FIND, FIND)
    assert server.asked == [CLAIM, "find", "find", "find"]
    server.asked.clear()
    # Later, as candidates run.
    await reconciles.reconcile(FIND, HOLDER)
    assert server.asked == ["find", "holder"]
    server.asked.clear()
    await reconciles.reconcile(HOLDER, MOVE)
    assert server.asked == ["holder", CLAIM, "move"]


async def test_a_name_that_another_namespace_took_meanwhile_is_not_moved(server: Server):
    reconciles = Reconciles(server)
    await reconciles.reconcile(FIND)
    server.taken = True
    answers = await reconciles.reconcile(MOVE)
    assert answers.move is None
    assert "another namespace" in answers.tracking_refused
    assert "move" not in server.asked


async def test_a_refusal_is_asked_for_again(server: Server):
    reconciles = Reconciles(server)
    server.taken = True
    assert (await reconciles.reconcile(FIND)).tracking_refused
    server.taken = False
    assert not (await reconciles.reconcile(FIND)).tracking_refused
    assert server.asked == [CLAIM, CLAIM, "find"]


async def test_another_name_or_tracker_is_asked_about(server: Server):
    reconciles = Reconciles(server)
    await reconciles.reconcile(FIND)
    server.asked.clear()
    reconciles.rename("other")
    await reconciles.reconcile(FIND)
    assert server.asked == ["claim other for team", "find"]
    server.asked.clear()
    server.key = "tracker-2"
    await reconciles.reconcile(FIND)
    assert server.asked == ["claim other for team", "find"]


async def test_who_promotes_nothing_asks_for_no_name(server: Server):
    await Reconciles(server, promote=None).reconcile(FIND)
    assert server.asked == ["find"]
