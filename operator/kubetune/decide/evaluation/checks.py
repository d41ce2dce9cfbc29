"""What stands in the way of an Evaluation: what all candidates need, missing or unfit."""

from __future__ import annotations

from kubetune.api.conditions import Phase, Reason
from kubetune.api.metrics.metric import MAX_FUNCTION_CHARACTERS, WITHOUT_REFERENCE
from kubetune.api.training.objectives import OBJECTIVES
from kubetune.decide.checks import (
    Check,
    NamedInput,
    not_created,
    not_ready,
    nothing_lacking,
    refused,
    refused_if,
    target_created,
    target_ready,
)
from kubetune.decide.evaluation.observed import ObservedEvaluation
from kubetune.decide.evaluation.tasks import tasks_missing, tasks_problem
from kubetune.decide.inspected.prompt_template import slot_problem
from kubetune.decide.settings.gpu_labels import gpu_label_problem
from kubetune.decide.settings.objectives import columns_problem
from kubetune.decide.waiting import NotReady
from kubetune.tracking.facts import tracker_facts


def _spec(observed: ObservedEvaluation) -> NotReady | None:
    if observed.evaluation.spec is None:
        return refused(observed.evaluation.problem, Reason.INVALID_SPEC)
    return None


def _named(observed: ObservedEvaluation) -> list[NamedInput]:
    spec = observed.evaluation.spec
    if spec is None:
        return []
    return [
        NamedInput(
            "Dataset",
            spec.dataset_ref.name,
            observed.dataset,
            Reason.DATASET_MISSING,
            Reason.DATASET_NOT_READY,
        ),
        NamedInput(
            "PromptTemplate",
            spec.prompt_ref.name if spec.prompt_ref else None,
            observed.prompt,
            Reason.PROMPT_MISSING,
            Reason.PROMPT_NOT_READY,
        ),
    ]


def _inputs_created(observed: ObservedEvaluation) -> NotReady | None:
    return not_created(_named(observed))


def _inputs_ready(observed: ObservedEvaluation) -> NotReady | None:
    return not_ready(_named(observed))


def _functions_there(observed: ObservedEvaluation) -> NotReady | None:
    spec = observed.evaluation.spec
    for function in (spec.functions if spec else None) or ():
        if function.name not in observed.functions:
            source = function.config_map_ref
            message = (
                f"waiting for key {source.key} of ConfigMap {source.name}, which has the function"
                f" {function.name} of spec.functions"
            )
            return NotReady(Phase.PENDING, Reason.CONFIG_MAP_MISSING, message)
    return None


def _tasks_there(observed: ObservedEvaluation) -> NotReady | None:
    spec = observed.evaluation.spec
    message = tasks_missing(spec, observed.task_files) if spec else ""
    return NotReady(Phase.PENDING, Reason.CONFIG_MAP_MISSING, message) if message else None


def _labels_allowed(observed: ObservedEvaluation) -> NotReady | None:
    spec = observed.evaluation.spec
    given = (("spec", spec.resources if spec else None),)
    return refused_if(gpu_label_problem(observed.target, given))


def _dataset_readable(observed: ObservedEvaluation) -> NotReady | None:
    if observed.dataset is None or observed.dataset.spec is None:
        return refused("an input's spec can't be read")
    return None


def _alias_can_move(observed: ObservedEvaluation) -> NotReady | None:
    spec, target = observed.evaluation.spec, observed.target.spec
    if spec is None or target is None or spec.promote is None:
        return None
    facts = tracker_facts(target)
    if facts.has_aliases:
        return None
    return refused(
        f"spec.promote can't move alias {spec.promote.alias}: {facts.registry}, the one of"
        f" {observed.target.label}, has no aliases; leave promote out, or name a target whose"
        " tracking is mlflow",
        Reason.REGISTRY_WITHOUT_ALIASES,
    )


def _judge_keys_allowed(observed: ObservedEvaluation) -> NotReady | None:
    spec, target = observed.evaluation.spec, observed.target.spec
    if spec is None or target is None or target.block is None:
        return None
    for judge in spec.judges or ():
        key = judge.api_key_secret_ref
        problem = target.block.judge_key_problem(key.key, judge.base_url) if key else ""
        if problem:
            return refused(
                f"judge {judge.name} of spec.judges may not send {key.key if key else ''} to"
                f" {judge.base_url}: {observed.target.label}: {problem}",
                Reason.JUDGE_KEY_REFUSED,
            )
    return None


def _functions_fit(observed: ObservedEvaluation) -> NotReady | None:
    for name, code in observed.functions.items():
        if len(code) > MAX_FUNCTION_CHARACTERS:
            return refused(
                f"function {name} of spec.functions has {len(code):,} characters, the limit is"
                f" {MAX_FUNCTION_CHARACTERS:,}: shorten it, or put parts into the runner's image"
            )
    return None


def _tasks_fit(observed: ObservedEvaluation) -> NotReady | None:
    spec = observed.evaluation.spec
    return refused_if(tasks_problem(spec, observed.task_files)) if spec else None


def _split_has_rows(observed: ObservedEvaluation) -> NotReady | None:
    spec, dataset = observed.evaluation.spec, observed.dataset
    if spec is None or dataset is None:
        return None
    rows = dataset.status.get("rows")
    if rows is None or rows[spec.split] != 0:
        return None
    return refused(
        f"Dataset {dataset.name} has no {spec.split} rows: set spec.splits of the Dataset, or"
        " spec.split to the rows that it has"
    )


def _prompt_fits(observed: ObservedEvaluation) -> NotReady | None:
    prompt, dataset = observed.prompt, observed.dataset
    if prompt is None or dataset is None:
        return None
    if prompt.spec is None:
        return refused(f"PromptTemplate {prompt.name}: {prompt.problem}")
    return refused_if(slot_problem(prompt.spec, dataset.name, dataset.status), Reason.SLOT_UNKNOWN)


def _rows_fit(observed: ObservedEvaluation) -> NotReady | None:
    """A PromptTemplate makes text of rows of any format."""
    spec, dataset = observed.evaluation.spec, observed.dataset
    if spec is None or dataset is None or dataset.spec is None or observed.prompt is not None:
        return None
    taken = OBJECTIVES["sft"].formats
    if dataset.spec.format not in taken:
        return refused(
            f"an evaluation takes no rows of format {dataset.spec.format} (Dataset"
            f" {dataset.name}): name a PromptTemplate in spec.promptRef that makes text of them,"
            f" or a Dataset of format {', '.join(taken)}",
            Reason.FORMAT_MISMATCH,
        )
    if problem := columns_problem(dataset, with_template=True):
        return refused(problem, Reason.FORMAT_MISMATCH)
    benchmarks = {task.name for task in spec.tasks or ()}
    needy = [name for name in spec.metrics if name not in WITHOUT_REFERENCE | benchmarks]
    if dataset.spec.format != "text" or not needy:
        return None
    return refused(
        f"{', '.join(needy)} in spec.metrics compare answers with references, and rows of"
        f" Dataset {dataset.name} are plain text: ask for"
        f" {' and '.join(sorted(WITHOUT_REFERENCE))} only, or name a PromptTemplate in"
        " spec.promptRef",
        Reason.FORMAT_MISMATCH,
    )


CHECKS: tuple[Check[ObservedEvaluation], ...] = (
    _spec,
    _inputs_created,
    target_created,
    _inputs_ready,
    target_ready,
    _functions_there,
    _tasks_there,
    nothing_lacking,
    _labels_allowed,
    _dataset_readable,
    _alias_can_move,
    _judge_keys_allowed,
    _functions_fit,
    _tasks_fit,
    _split_has_rows,
    _prompt_fits,
    _rows_fit,
)
"""In order: what is told is the first thing that somebody has to do."""
