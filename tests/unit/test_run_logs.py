"""``kubetune logs``: what is said of runs that have no pod to ask."""

import asyncio
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.api.kinds.table import BY_KIND
from kubetune.cli import run_logs
from kubetune.cli.connection import NotThereError
from kubetune.cli.run_logs import Wanted, kind_of

CONSOLE = "https://ml.example/team/jobs/7"
RUNNING = {"number": 1, "job": "r", "result": "Running"}
FAILED = {"number": 1, "job": "r", "result": "Failed", "log": "Traceback\nValueError: no"}


class Cluster:
    """An API server with one object and no pods."""

    def __init__(self, status: JsonObject) -> None:
        self.body = {"metadata": {"uid": "u"}, "spec": {}, "status": status}

    async def __aenter__(self) -> "Cluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def get(self, wanted: Wanted) -> JsonObject:
        return self.body

    async def pods(self, *_: object) -> JsonObject:
        return {}


def shown(
    monkeypatch: pytest.MonkeyPatch, status: JsonObject, kind: str = "FineTuneJob", **given: Any
) -> None:
    monkeypatch.setattr(run_logs, "_cluster", lambda: Cluster(status))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    wanted = Wanted(BY_KIND[kind], "team", "tickets", **given)
    asyncio.run(run_logs.write_log(wanted))


@pytest.mark.parametrize("text", ["ftj", "FineTuneJob", "finetunejobs", "eval", "dset", "pt"])
def test_kinds_have_all_their_names(text: str) -> None:
    assert kind_of(text).kind in ("FineTuneJob", "Evaluation", "Dataset", "Model", "PromptTemplate")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "has no run yet: the operator has not seen it yet"),
        ({"attempts": [RUNNING], "external": {"url": CONSOLE}}, f"look at {CONSOLE}"),
        (
            {
                "attempts": [RUNNING],
                "external": {"url": CONSOLE},
                "mlflow": {"runId": "r1", "url": "https://ml.example"},
            },
            "logs/attempt-1.log of run r1 in https://ml.example",
        ),
        (
            {
                "attempts": [RUNNING],
                "external": {"url": CONSOLE},
                "mlflow": {"runId": "r1", "url": "http://mlflow/#/experiments/1/runs/r1"},
            },
            f"console in CML is at {CONSOLE}",
        ),
        ({"result": {"reused": True}, "mlflow": {"url": "http://m"}}, "by another run"),
        ({"inspection": {"result": "found"}}, "isn't kept"),
    ],
)
def test_what_cant_be_shown_is_said_with_the_place_to_look(
    monkeypatch: pytest.MonkeyPatch, status: JsonObject, words: str
) -> None:
    with pytest.raises(NotThereError) as told:
        shown(monkeypatch, status)
    assert words in str(told.value)


def test_the_end_of_a_failed_run_is_shown_from_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {
        "phase": "Failed",
        "attempts": [FAILED],
        "mlflow": {"runId": "r1", "url": "http://mlflow/#/experiments/1/runs/r1"},
    }
    shown(monkeypatch, status, follow=True)
    printed = capsys.readouterr()
    assert printed.out == "Traceback\nValueError: no\n"
    assert "The end of the log, from the status" in printed.err
    shown(monkeypatch, {"inspection": {"log": "NoFiles"}}, kind="Dataset", tail=1)
    assert capsys.readouterr().out == "NoFiles\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attempt": 3}, "has no attempt 3: the newest is 1"),
        ({"previous": True}, "no attempt before its newest, 1"),
    ],
)
def test_attempts_that_there_arent(
    monkeypatch: pytest.MonkeyPatch, given: JsonObject, words: str
) -> None:
    with pytest.raises(NotThereError, match=words):
        shown(monkeypatch, {"attempts": [FAILED]}, **given)
