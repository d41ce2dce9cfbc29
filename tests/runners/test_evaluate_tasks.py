"""Tasks of the evaluation harness on real candidates."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.evaluation_plan import TASKS_ARTIFACT, EvaluationSummary, TaskPlan
from kubetune.api.run.plan import ENV_PLAN_DATA, TAG_TOTAL_STEPS
from kubetune_runner import evaluate
from kubetune_runner.evaluate import candidate, harness
from kubetune_runner.evaluate.harness import Benchmarks, Counter

from tests.runners.evaluation_fixtures import EvaluationFactory, adapter_of, make_adapter

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("plain_process")]

QUESTIONS: list[dict[str, Any]] = [
    {"question": f"{first} and {second} are", "choices": ["pears", "a printer", "refunds"]}
    for first in ("order", "delivery", "the invoice")
    for second in ("account", "password", "shipping")
]
CHOICE = """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 1
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
PERPLEXITY = """
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - metric: word_perplexity
"""
RAISES = """
task: raises
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: generate_until
generation_kwargs: {until: ["\\n"], max_gen_toks: 2}
doc_to_text: !function code.ask
doc_to_target: "x"
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
FILES = {
    "choices.yaml": CHOICE,
    "words.yaml": PERPLEXITY,
    "raises.yaml": RAISES,
    "code.py": "def ask(row):\n    raise KeyError('not there')\n",
    "questions.jsonl": "".join(json.dumps(row) + "\n" for row in QUESTIONS),
}


def task(name: str, task: str, **given: Any) -> TaskPlan:
    files = None if given.pop("brought", False) else FILES
    return TaskPlan(name=name, task=task, files=files, **given)


class Counted:
    """What the harness says of its requests."""

    def __init__(self) -> None:
        self.expected: list[int] = []
        self.done = 0

    def counter(self) -> Counter:
        def done() -> None:
            self.done += 1

        return Counter(self.expected.append, done)


def run(
    make: EvaluationFactory, tasks: list[TaskPlan], counted: Counted | None = None, **model: Any
) -> tuple[Benchmarks, Any, Any]:
    """The tasks' results, and the model and tokenizer that gave them."""
    plan = make(metrics=[], tasks=[each.to_json() for each in tasks], model=model)
    found = candidate.find(plan.model)
    loaded = candidate.load(found, None)
    counter = (counted or Counted()).counter()
    results = harness.measure(plan, loaded, found.tokenizer, found.context, counter)
    return results, loaded, found.tokenizer


def likeliest(model: Any, tokenizer: Any, question: str, choices: list[str]) -> int:
    """The choice whose tokens the model finds likeliest after the question."""
    import torch

    scores: list[float] = []
    start = len(tokenizer(question).input_ids)
    for choice in choices:
        ids = torch.tensor([tokenizer(f"{question} {choice}").input_ids])
        with torch.no_grad():
            chances = model(ids).logits[0, :-1].log_softmax(-1)
        wanted = ids[0, 1:]
        scores.append(float(chances[range(len(wanted)), wanted][start - 1 :].sum()))
    return max(range(len(scores)), key=scores.__getitem__)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_task_scores_what_the_candidate_finds_likeliest(
    make_evaluation: EvaluationFactory, tiny_model: Path, tmp_path: Path, adapted: bool
) -> None:
    model: dict[str, Any] = {}
    if adapted:
        folder = make_adapter(tiny_model, tmp_path / "adapter", ["q_proj", "v_proj", "up_proj"])
        model = adapter_of(tiny_model) | {"directory": str(folder)}
    counted = Counted()
    tasks = [task("right", "choices"), task("normed", "choices", metric="acc_norm")]
    results, loaded, tokenizer = run(make_evaluation, tasks, counted, **model)
    answers = [likeliest(loaded, tokenizer, row["question"], row["choices"]) for row in QUESTIONS]
    measured = results.columns["right"].measured
    assert measured.value == pytest.approx(answers.count(1) / len(QUESTIONS), rel=1e-5)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low <= (measured.value or 0) <= measured.high
    assert results.columns["normed"].measured.error is None
    # The second metric of the task asked nothing more.
    assert (counted.expected, counted.done) == ([27], 27)
    assert [row["metrics"]["acc"] for row in results.rows] == [
        float(answer == 1) for answer in answers
    ]


def test_what_a_task_cannot_do_is_an_error_in_the_table(make_evaluation: EvaluationFactory) -> None:
    results, *_ = run(
        make_evaluation,
        [
            task("unknown", "nonsense"),
            task("other", "choices", metric="f1", limit=2),
            task("raised", "raises"),
            task("reversed", "choices", lower_is_better=True, limit=2),
            task("lower", "words"),
            task("told", "words", lower_is_better=True),
        ],
    )
    errors = {name: column.measured.error for name, column in results.columns.items()}
    assert errors == {
        "unknown": "unknown: no file of the ConfigMap defines task nonsense; they define choices,"
        " raises, words",
        "other": "other: task choices has no metric f1; it has acc,none, acc_norm,none",
        "raised": "raised: KeyError: 'not there'",
        "reversed": "reversed: higher acc of task choices is better: set lowerIsBetter: false",
        "lower": "lower: lower word_perplexity of task words is better: set lowerIsBetter: true",
        "told": None,
    }


def test_examples_and_limits_are_as_the_plan_says(make_evaluation: EvaluationFactory) -> None:
    results, _, tokenizer = run(
        make_evaluation,
        [
            task("few", "choices", few_shot=2, limit=3),
            task("chat", "choices", chat_template=True, limit=1),
        ],
    )
    assert [column.measured.error for column in results.columns.values()] == [None, None]
    assert [row["row"] for row in results.rows] == [0, 1, 2, 0]
    *few, chat = results.rows
    assert all(row["prompt"].count(" are a printer") == 2 for row in few)
    message = [{"role": "user", "content": QUESTIONS[0]["question"]}]
    asked = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert chat["prompt"] == asked


def test_tasks_are_in_the_table_of_an_evaluation(
    make_evaluation: EvaluationFactory, mlflow_server: str
) -> None:
    from mlflow.tracking import MlflowClient

    plan = make_evaluation(
        metrics=["loss"],
        tasks=[task("right", "choices").to_json()],
        tracking={"uri": mlflow_server},
        run={"runKey": "tasks"},
    )
    outcome = evaluate.run(plan)
    summary = EvaluationSummary.model_validate(outcome.summary)
    assert list(summary.metrics) == ["loss", "right"]
    client = MlflowClient(mlflow_server)
    found = client.get_run(summary.run_id)
    assert found.data.metrics["right"] == summary.metrics["right"].value
    assert found.data.tags[TAG_TOTAL_STEPS] == str(8 + 27)
    path = client.download_artifacts(summary.run_id, TASKS_ARTIFACT)
    assert len(Path(path).read_text().splitlines()) == len(QUESTIONS)


def test_a_task_that_the_harness_does_not_bring(make_evaluation: EvaluationFactory) -> None:
    results, *_ = run(make_evaluation, [task("arc", "arc_easi", brought=True)])
    error = results.columns["arc"].measured.error or ""
    assert "has no task arc_easi; close to it: arc_easy" in error


def test_a_runtime_without_the_harness_says_how_to_get_it(
    make_evaluation: EvaluationFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    monkeypatch.setenv(ENV_PLAN_DATA, "a run on CML")
    plan = make_evaluation(metrics=[], tasks=[task("right", "choices").to_json()])
    results = harness.measure(plan, None, None, None, Counted().counter())
    error = results.columns["right"].measured.error or ""
    assert error.startswith("right: lm-eval is missing (")
    assert error.endswith("pip install 'kubetune[runner]' in a session of the project")
