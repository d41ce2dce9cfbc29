"""Benchmarks: tasks of lm-evaluation-harness, run on the candidate that is loaded already.

The harness asks and scores in its own way; here its numbers become columns of the table. What a
task can't do (unknown, no network, code that raises) is an error in the table.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

from kubetune.api.run.evaluation_plan import EvaluationRunPlan, MeasuredValue, TaskPlan

from kubetune_runner.answering.embeddings import unembedded
from kubetune_runner.answering.generation import ways
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import table
from kubetune_runner.evaluate.metrics import MetricError
from kubetune_runner.evaluate.table import Column
from kubetune_runner.mlflow.client import first_line
from kubetune_runner.outcomes import packages_hint

RESAMPLES = 1000
"""For intervals of metrics that have no formula; the harness' own 100,000 take minutes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counter:
    """Requests of the harness to the model: how many there are, as far as known, and done."""

    expect: Callable[[int], None]
    done: Callable[[], None]


@dataclass(frozen=True)
class Benchmarks:
    """What the tasks gave."""

    columns: dict[str, Column] = field(default_factory=dict[str, Column])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Each question with the answer and its metrics."""


def measure(
    plan: EvaluationRunPlan, model: Any, tokenizer: Any, context: int | None, counter: Counter
) -> Benchmarks:
    """Run the plan's tasks. Raises RunError OutOfMemory."""
    harness = _Harness(plan, model, tokenizer, context, counter)
    found = Benchmarks()
    ran: dict[str, dict[str, Any] | MetricError] = {}
    for task in plan.tasks or ():
        # Two metrics of one task are asked once.
        asked = task.model_copy(update={"name": "", "metric": None, "lower_is_better": False})
        key = asked.model_dump_json()
        if key not in ran:
            ran[key] = harness.run(task)
            found.rows.extend(_rows(ran[key]))
        found.columns[task.name] = _column(task, ran[key])
    return found


@dataclass
class _Harness:
    """The harness on one candidate; what all tasks share is made when the first needs it."""

    plan: EvaluationRunPlan
    model: Any
    tokenizer: Any
    context: int | None
    counter: Counter

    def run(self, task: TaskPlan) -> dict[str, Any] | MetricError:
        """The harness' results of a task, or why there are none."""
        from kubetune_runner.evaluate.measuring import is_out_of_memory

        log.info("task %s", task.task)
        try:
            return self._evaluated(task)
        except MetricError as error:
            return error
        # Tasks bring code of their own, which may raise anything.
        except Exception as error:
            if is_out_of_memory(error):
                raise RunError(
                    "OutOfMemory",
                    f"the memory is too small for task {task.task} with generation.batchSize"
                    f" {self.plan.generation.batch_size}: lower batchSize first, or give the run"
                    " more memory with resources",
                ) from error
            log.warning("task %s", task.task, exc_info=True)
            return MetricError(first_line(error))

    @cached_property
    def _catalogue(self) -> Any:
        """What the harness brings: 14,000 files, whose names alone take seconds to read."""
        from lm_eval.tasks import TaskManager

        return TaskManager()

    @cached_property
    def _candidate(self) -> Any:
        batch_size = self.plan.generation.batch_size
        if batch_size > 1 and not ways(self.model, self.tokenizer).together:
            batch_size = 1
        return _model(self.model, self.tokenizer, self.context, batch_size, self.counter)

    def _evaluated(self, task: TaskPlan) -> dict[str, Any]:
        try:
            from lm_eval.evaluator import evaluate
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise MetricError(f"lm-eval is missing ({error}); {packages_hint()}") from error
        from transformers import set_seed

        with _folder(task.files) as folder:
            manager: Any = (
                TaskManager(include_path=str(folder), include_defaults=False)
                if folder
                else self._catalogue
            )
            if task.task not in manager.all_tasks:
                raise MetricError(_unknown(task, manager.all_tasks))
            loaded: Any = manager.load([task.task])
            for each in loaded["tasks"].values():
                _configure(each, task, self.plan.seed)
            set_seed(self.plan.seed)
            results: Any = evaluate(
                self._candidate,
                loaded,
                limit=task.limit,
                bootstrap_iters=RESAMPLES,
                apply_chat_template=task.chat_template,
                fewshot_as_multiturn=task.chat_template,
            )
        return results


def _configure(loaded: Any, task: TaskPlan, seed: int) -> None:
    """Set few-shot examples as the harness' own command line does."""
    default = loaded.get_config("num_fewshot")
    if task.few_shot is not None and task.few_shot != default:
        # A task that says 0 means that examples would spoil it.
        if default == 0:
            raise MetricError(
                f"task {loaded.task_name} takes no solved examples: leave fewShot out"
            )
        loaded.set_config(key="num_fewshot", value=task.few_shot)
    elif default is None:
        loaded.set_config(key="num_fewshot", value=0)
    loaded.set_fewshot_seed(seed=seed)


def _model(
    model: Any, tokenizer: Any, context: int | None, batch_size: int, counter: Counter
) -> Any:
    from lm_eval.models import huggingface

    harness_model: Any = huggingface.HFLM

    class Counted(harness_model):
        """Tells how far it is. Every request passes the hook of the harness' cache.

        Tokens without an embedding are refused.
        """

        def tok_encode(self, *args: Any, **options: Any) -> list[int]:
            ids: list[int] = super().tok_encode(*args, **options)
            _check([ids])
            return ids

        def tok_batch_encode(self, *args: Any, **options: Any) -> Any:
            encoded: Any = super().tok_batch_encode(*args, **options)
            _check(encoded[0].tolist())
            return encoded

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            counter.expect(len(requests))
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            counter.expect(len(requests))
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            counter.expect(len(requests))
            return super().generate_until(requests, disable_tqdm=True)

    def _check(rows: list[list[int]]) -> None:
        if what := unembedded(model, tokenizer, rows):
            raise MetricError(f"its rows have {what}")

    class Hook:
        def add_partial(self, *_: object) -> None:
            counter.done()

    given = {} if context is None else {"max_length": context}
    counted: Any = Counted(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal", **given
    )
    counted.set_cache_hook(Hook())
    return counted


@contextlib.contextmanager
def _folder(files: Mapping[str, str] | None) -> Generator[Path | None]:
    """A folder with an own task's files, which is the working directory meanwhile."""
    if files is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="task-") as name, contextlib.chdir(name):
        for key, text in files.items():
            Path(key).write_text(text, encoding="utf-8")
        yield Path(name)


def _unknown(task: TaskPlan, known: Sequence[str]) -> str:
    if task.files is not None:
        names = ", ".join(sorted(known)[:5]) or "none"
        return f"no file of the ConfigMap defines task {task.task}; they define {names}"
    version = importlib.metadata.version("lm-eval")
    close = get_close_matches(task.task, known, 3)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return f"lm-eval {version} has no task {task.task}{hint}"


def _column(task: TaskPlan, results: dict[str, Any] | MetricError) -> Column:
    if isinstance(results, MetricError):
        return table.failed(task.name, str(results))
    # A group without a score of its own has none here.
    given: dict[str, Any] = results["results"].get(task.task, {})
    scores = {
        key: value
        for key, value in given.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    }
    key = _chosen(task.metric, scores)
    if key is None:
        names = ", ".join(scores) or "none"
        wanted = f"metric {task.metric}" if task.metric else "metric for all its rows"
        return table.failed(task.name, f"task {task.task} has no {wanted}; it has {names}")
    metric, _, filtered = key.partition(",")
    higher = results.get("higher_is_better", {}).get(task.task, {}).get(metric)
    if higher is not None and higher is task.lower_is_better:
        better, value = ("higher", "false") if higher else ("lower", "true")
        return table.failed(
            task.name,
            f"{better} {metric} of task {task.task} is better: set lowerIsBetter: {value}",
        )
    value = float(scores[key])
    if not math.isfinite(value):
        return table.failed(task.name, f"its value is {value}, not a finite number")
    error = given.get(f"{metric}_stderr,{filtered}")
    low = high = None
    if isinstance(error, int | float) and math.isfinite(error):
        reach = NormalDist().inv_cdf((1 + table.CONFIDENCE) / 2) * error
        low, high = table.rounded(value - reach), table.rounded(value + reach)
    return Column(MeasuredValue(value=table.rounded(value), low=low, high=high))


def _chosen(metric: str | None, scores: Mapping[str, float]) -> str | None:
    """The harness' name, which has a filter behind a comma."""
    if metric is None:
        return next(iter(scores), None)
    if metric in scores:
        return metric
    return next((key for key in scores if key.partition(",")[0] == metric), None)


def _rows(results: dict[str, Any] | MetricError) -> list[dict[str, Any]]:
    if isinstance(results, MetricError):
        return []
    return [
        {
            "task": name,
            "row": sample["doc_id"],
            "prompt": sample["arguments"][0][0] if sample["arguments"] else None,
            "target": sample["target"],
            "answers": sample["filtered_resps"],
            "filter": sample["filter"],
            "metrics": {metric: sample[metric] for metric in sample["metrics"]},
        }
        for name, samples in (results.get("samples") or {}).items()
        for sample in samples
    ]
