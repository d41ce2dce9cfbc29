"""What a registered model is asked: texts, chats, tables and OpenAI's requests, or a refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune_runner.answering.model import FineTunedModel
from kubetune_runner.answering.requests import Request, requests_of
from kubetune_runner.answering.scoring import Answered, answered_of
from kubetune_runner.mlflow import card
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import save, upload
from kubetune_runner.results import save_results
from kubetune_runner.sample.tickets import tickets

from tests.runners.conftest import PlanFactory
from tests.runners.fitting import fitted

ASK = {"role": "user", "content": "Which town?"}
SYSTEM = {"role": "system", "content": "Be short."}
CHAT = [SYSTEM, ASK, {"role": "assistant", "content": "Rome"}, ASK]
CALL = {"type": "function", "function": {"name": "sky", "arguments": '{"at": "Rome"}'}}


def frame(**columns: Any) -> Any:
    import pandas

    return pandas.DataFrame(columns)


def array(*items: Any) -> Any:
    import numpy

    made = numpy.empty(len(items), dtype=object)
    made[:] = items
    return made


TAKEN: dict[str, tuple[Any, list[Request]]] = {
    "a text": ("a", [Request("a")]),
    "texts": (["a", "b"], [Request("a"), Request("b")]),
    "an array": (array("a", "b"), [Request("a"), Request("b")]),
    "one chat": (CHAT, [Request(turns=CHAT)]),
    "chats": ([CHAT, [ASK]], [Request(turns=CHAT), Request(turns=[ASK])]),
    "a request": ({"messages": CHAT}, [Request(turns=CHAT)]),
    "requests": (
        [{"messages": CHAT, "max_tokens": 7, "model": "m", "temperature": 0}, {"prompt": "a"}],
        [Request(turns=CHAT, limit=7), Request("a")],
    ),
    "tools": ({"messages": [ASK], "tools": [{"x": 1}]}, [Request(turns=[ASK], tools=[{"x": 1}])]),
    "a table of prompts": (frame(prompt=["a"], other=["b"]), [Request("a")]),
    "a table of one column": (frame(anything=["a"]), [Request("a")]),
    "a table of chats": (
        frame(messages=[CHAT, [ASK]]),
        [Request(turns=CHAT), Request(turns=[ASK])],
    ),
    "chats as JSON": (frame(messages=[json.dumps([ASK])]), [Request(turns=[ASK])]),
    "a text that is JSON": ([json.dumps([ASK])], [Request(json.dumps([ASK]))]),
    "a table with tools": (
        frame(messages=[[ASK]], tools=['[{"x": 1}]']),
        [Request(turns=[ASK], tools=[{"x": 1}])],
    ),
    "parts": (
        [[{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]],
        [Request(turns=[{"role": "user", "content": "ab"}])],
    ),
    "calls": (
        [
            [
                ASK,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "sunny"},
            ]
        ],
        [
            Request(
                turns=[
                    ASK,
                    {
                        "role": "assistant",
                        "content": "",
                        "tool_calls": [
                            CALL | {"function": {"name": "sky", "arguments": {"at": "Rome"}}}
                        ],
                    },
                    {"role": "tool", "content": "sunny"},
                ]
            )
        ],
    ),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "a number": (3, "give a text, a list of turns"),
    "numbers": ([1.5], "this one is a float"),
    "nothing": ([None], "this one is a NoneType"),
    "a missing cell": (frame(prompt=["a", None]), "this one is a"),
    "another map": ({"question": "a"}, "question: not taken"),
    "settings that would be ignored": (
        {"messages": [ASK], "temperature": 1},
        "temperature: not",
    ),
    "several answers": ({"messages": [ASK], "n": 3}, "n: not taken"),
    "both": ({"messages": [ASK], "prompt": "a"}, "messages or prompt"),
    "an answered chat": ([CHAT[:3]], "the last turn is the assistant's"),
    "a picture": ([[{"role": "user", "content": [{"type": "image_url"}]}]], "isn't text"),
    "no content": ([[{"role": "user"}]], "no content that is text"),
    "a table of others": (
        frame(a=["x"], b=["y"]),
        "a column messages or prompt; it has a, b",
    ),
    "an empty chat": ({"messages": []}, "give a text, a list of turns"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_asked(case: str) -> None:
    given, expected = TAKEN[case]
    assert requests_of(given) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=words.replace("(", r"\(")):
        requests_of(given)


def chats() -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "Sort the ticket."},
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in tickets(48)
    ]


@pytest.mark.training
def test_a_registered_chat_model_takes_chats(
    make_plan: PlanFactory, mlflow_server: str, tiny_model: Path, tmp_path: Path
) -> None:
    """System turns and earlier turns count, through MLflow's own loading, on a base elsewhere."""
    import mlflow
    from mlflow.artifacts import download_artifacts

    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    plan: RunPlan = make_plan(
        rows=chats(),
        held_out=chats()[:4],
        dataset={"format": "messages"},
        model={"directory": str(base)},
        training={"tokenizer": {"chatTemplate": CHAT_TEMPLATES["plain"]}},
        tracking={"uri": mlflow_server},
    )
    tracker = Tracker(plan)
    tracker.start()
    trainer, inputs = fitted(plan, tracker)
    saved = save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=True)
    counts = {"train": inputs.train.counts()}
    card.write(saved.result, plan, rows=counts, metrics={"eval_loss": 1.5})
    model_id = upload(tracker, saved.result, {})["modelId"]
    assert tracker.close("FINISHED", 30)
    moved = tmp_path / "moved"
    base.rename(moved)
    mlflow.set_tracking_uri(mlflow_server)
    uri = f"models:/{model_id}"
    with pytest.raises(Exception, match=r"model_config=.*base_model"):
        mlflow.pyfunc.load_model(uri)
    loaded = mlflow.pyfunc.load_model(uri, model_config={"base_model": str(moved)})
    inner = loaded.unwrap_python_model()
    tokenizer: Any = inner.tokenizer

    turns = chats()[0]["messages"]
    several = [*turns, {"role": "user", "content": "And my router?"}]
    asked: list[str] = []
    original = inner.tokenizer.apply_chat_template

    def seen(chat: Any, **options: Any) -> str:
        asked.append(original(chat, **options))
        return asked[-1]

    tokenizer.apply_chat_template = seen
    expected = original(several, tokenize=False, add_generation_prompt=True)
    answers: list[str] = []
    for given in (
        [{"messages": several}],
        {"messages": several},
        [several],
        several,
        frame(messages=[several]),
    ):
        answers += list(loaded.predict(given, params={"max_new_tokens": 6}))
        assert asked.pop() == expected
    assert len(set(answers)) == 1
    assert list(loaded.predict(["hello"])) == list(
        loaded.predict([{"messages": [{"role": "user", "content": "hello"}]}])
    )
    with pytest.raises(Exception, match="not taken"):
        loaded.predict([{"question": "a"}])

    # The card tells how: what it says runs, once the base's place is filled in.
    folder = next(Path(download_artifacts(artifact_uri=uri)).glob("**/adapter_config.json")).parent
    text = (folder / "README.md").read_text()
    assert "| eval_loss |  | 1.5 |" in text
    assert f"`{base}`" in text
    code = text.split("```python\n")[2].split("```")[0]
    names: dict[str, Any] = {}
    code = code.replace("FOLDER_OF_THE_BASE_MODEL", str(moved)).replace("FOLDER", str(folder))
    exec(code, names)
    assert names["model"].peft_config["default"].r == 4


ANSWER = {"role": "assistant", "content": "Rome"}
ANSWERED: dict[str, tuple[Any, list[Answered]]] = {
    "a table of texts": (
        frame(prompt=["a"], completion=["b"], other=["c"]), [Answered("a", "b")]
    ),
    "texts": ([{"prompt": "a", "completion": "b"}] * 2, [Answered("a", "b")] * 2),
    "a number": ({"prompt": "1+1", "completion": 2}, [Answered("1+1", "2")]),
    "a text that looks like a list": (
        {"prompt": "[1]", "completion": "[2]"}, [Answered("[1]", "[2]")]
    ),
    "a chat": ([ASK, ANSWER], [Answered(turns=[ASK, ANSWER])]),
    "chats": ([[ASK, ANSWER], [SYSTEM, ASK, ANSWER]],
              [Answered(turns=[ASK, ANSWER]), Answered(turns=[SYSTEM, ASK, ANSWER])]),
    "messages": ({"messages": [ASK, ANSWER]}, [Answered(turns=[ASK, ANSWER])]),
    "a table of chats": (
        frame(messages=[[ASK, ANSWER], json.dumps([ASK, ANSWER])]),
        [Answered(turns=[ASK, ANSWER])] * 2,
    ),
    "a chat and a text": (
        {"prompt": [SYSTEM, ASK], "completion": "Rome"}, [Answered(turns=[SYSTEM, ASK, ANSWER])]
    ),
    "a text and a turn": (
        {"prompt": "Which town?", "completion": [ANSWER]}, [Answered(turns=[ASK, ANSWER])]
    ),
    "a table of chats and answers": (
        frame(prompt=[array(SYSTEM, ASK)], completion=["Rome"]),
        [Answered(turns=[SYSTEM, ASK, ANSWER])],
    ),
}  # fmt: skip
UNANSWERED: dict[str, Any] = {
    "a text": "a",
    "texts": ["a", "b"],
    "a question": [ASK],
    "a question in a request": {"messages": [ASK]},
    "a prompt alone": {"prompt": "a"},
    "a request with a limit": {"messages": [ASK, ANSWER], "max_tokens": 3},
    "other columns": frame(question=["a"], answer=["b"]),
    "an answer that is none": {"prompt": "a", "completion": None},
    "messages that are a text": {"messages": "Rome"},
    "a number": 3,
}


@pytest.mark.parametrize("case", ANSWERED)
def test_what_a_score_is_asked_for(case: str) -> None:
    given, expected = ANSWERED[case]
    assert answered_of(given) == expected


@pytest.mark.parametrize("case", UNANSWERED)
def test_what_has_no_answer_gets_no_score(case: str) -> None:
    with pytest.raises((ValueError, TypeError), match="a score belongs to an answer"):
        answered_of(UNANSWERED[case])


def test_an_adapter_names_its_base_by_its_place(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path
) -> None:
    """A path of the run would say nothing to anybody else."""
    place = "pvc://models/base"
    plan = make_plan(model={"source": place}, training={"hyperparameters": {"maxSteps": 1}})
    trainer, inputs = fitted(plan)
    folder = tmp_path / "adapter"
    save(trainer.model, inputs.tokenizer, plan.model, folder, chat=False, max_new_tokens=4)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == place
    assert str(tiny_model) not in (folder / "adapter_config.json").read_text()
    loaded = FineTunedModel()
    context = SimpleNamespace(artifacts={"adapter": str(folder)}, model_config={})
    with pytest.raises(FileNotFoundError, match=f"{place} is not here.*model_config="):
        loaded.load_context(context)
    context.model_config = {"base_model": str(tiny_model)}
    loaded.load_context(context)
    assert len(loaded.predict(None, ["a"])) == 1
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    with pytest.raises(Exception, match=place):
        AutoPeftModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert PeftModel.from_pretrained(base, folder)
