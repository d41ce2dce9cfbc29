"""The harness tasks of an Evaluation as its plan has them, and the files that they need."""

from __future__ import annotations

from collections.abc import Mapping

from kubetune.api.kinds.evaluation.spec import EvaluationSpec
from kubetune.api.metrics.harness import MAX_TASK_CHARACTERS
from kubetune.api.run.evaluation_plan import TaskPlan

Files = Mapping[str, Mapping[str, str]]
"""Texts by the name of their ConfigMap and by their key."""


def tasks_missing(spec: EvaluationSpec, files: Files) -> str:
    """What a task still waits for, as a sentence; "" for nothing."""
    for task in spec.tasks or ():
        if task.config_map_ref and task.config_map_ref.name not in files:
            return (
                f"waiting for ConfigMap {task.config_map_ref.name}, which has the files of task"
                f" {task.name} of spec.tasks"
            )
    return ""


def tasks_problem(spec: EvaluationSpec, files: Files) -> str:
    """Why files can't be those of tasks, as a sentence; "" if they can."""
    total = 0
    for task in spec.tasks or ():
        if not task.config_map_ref:
            continue
        name = task.config_map_ref.name
        if not any(key.endswith((".yaml", ".yml")) for key in files[name]):
            return (
                f"ConfigMap {name}, named by task {task.name} of spec.tasks, has no key that ends"
                f" in .yaml: put the task's definition, with `task: {task.task}` in it, under such"
                " a key"
            )
        total += sum(len(text) for text in files[name].values())
    if total > MAX_TASK_CHARACTERS:
        return (
            f"the files of spec.tasks have {total:,} characters, the limit is"
            f" {MAX_TASK_CHARACTERS:,}: leave rows out, or have the task read them from the hub or"
            " from a volume of the target"
        )
    return ""


def task_plans(spec: EvaluationSpec, files: Files) -> list[TaskPlan]:
    """All tasks in the order of their names."""
    return [
        TaskPlan(
            name=task.name,
            task=task.task,
            metric=task.metric,
            few_shot=task.few_shot,
            limit=task.limit,
            chat_template=task.chat_template,
            lower_is_better=task.lower_is_better,
            files=dict(files[task.config_map_ref.name]) if task.config_map_ref else None,
        )
        for task in sorted(spec.tasks or (), key=lambda task: task.name)
    ]
