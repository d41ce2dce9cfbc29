"""What can be optimised: one table, from which the API, the operator and the runner take the rest.

Settings that only one of them has are in ``objective_settings``. The runner has a module of the
same name for each, in ``kubetune_runner/training/objectives``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kubetune.api.rows import DatasetFormat
from kubetune.api.schema.rules import Message, Rule, cel_list, cel_told
from kubetune.api.training.objective_settings import WITH_SETTINGS
from kubetune.api.training.trl_names import GOES_WITH

Objective = Literal["sft", "dpo", "kto", "reward"]
TRAINING_LOSS = "trainLoss"
GRADED_METRICS = ("exactMatch", "tokenF1")
"""Of generated answers."""


@dataclass(frozen=True)
class ObjectiveFacts:
    """What the operator must know of an objective."""

    formats: tuple[DatasetFormat, ...]
    """Formats of a Dataset that it learns from."""
    logged: tuple[str, ...]
    """Metrics of held-out rows after training, as MLflow has them."""
    adapter_rate: float
    """Default learning rate of an adapter; that of whole models is the next."""
    full_rate: float
    settings: Mapping[str, Any] | None = None
    """Defaults of the settings below the field of its name; None where it has no such field."""
    packs: bool = False
    generates: bool = False
    """Answers are generated and compared with those of the data."""
    reference: bool = False
    """The model is measured against the one it was, so there is no other baseline."""
    scores: bool = False
    """The result gives a text a number instead of continuing it."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The same by their names in the API."""
        return tuple(map(metric_name, self.logged))

    @property
    def final_metrics(self) -> tuple[str, ...]:
        """All that status.result.metrics may have."""
        before = () if self.reference else tuple(map(baseline_name, self.metrics))
        return (*self.metrics, *before, TRAINING_LOSS)


def metric_name(logged: str) -> str:
    """The name in the API of a metric that a training run logs."""
    return re.sub(r"[_/](.)", lambda match: match[1].upper(), logged)


def baseline_name(metric: str) -> str:
    """The name in the API of a metric of the model before training."""
    return f"baseline{metric[0].upper()}{metric[1:]}"


def _rewards(*names: str) -> tuple[str, ...]:
    return ("eval_loss", *(f"eval_rewards/{name}" for name in names))


OBJECTIVES: Mapping[Objective, ObjectiveFacts] = {
    "sft": ObjectiveFacts(
        ("promptCompletion", "text", "messages"),
        ("eval_loss", "perplexity", "exact_match", "token_f1"),
        2e-4,
        2e-5,
        packs=True,
        generates=True,
    ),
    "dpo": ObjectiveFacts(
        ("preference",),
        _rewards("accuracies", "margins", "chosen", "rejected"),
        5e-6,
        5e-7,
        {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0},
        reference=True,
    ),
    "kto": ObjectiveFacts(
        ("unpairedPreference",),
        (*_rewards("margins", "chosen", "rejected"), "eval_kl"),
        5e-6,
        5e-7,
        {"beta": 0.1, "lossType": "kto", "desirableWeight": 1.0, "undesirableWeight": 1.0},
        reference=True,
    ),
    "reward": ObjectiveFacts(
        ("preference",),
        ("eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward"),
        1e-4,
        1e-5,
        {},
        scores=True,
    ),
}


LOGGED_NAMES: Mapping[str, str] = {
    logged: metric_name(logged)
    for facts in OBJECTIVES.values()
    for name in (*facts.logged, "train_loss")
    for logged in (name, f"baseline_{name}")
    if logged != metric_name(logged)
}
"""MLflow's names of final metrics, where the API has others."""


def objectives_where(quality: str) -> tuple[Objective, ...]:
    """The objectives that have a quality, a field of ObjectiveFacts."""
    return tuple(name for name, facts in OBJECTIVES.items() if getattr(facts, quality))


def objective_rules() -> tuple[Rule, ...]:
    """Refuse what the job's objective has no use for, rather than ignore it."""
    learner = OBJECTIVES
    return (
        *(_own(name) for name in WITH_SETTINGS),
        Rule(
            cel="!has(self.promptRef) || self.objective == 'sft'",
            message="a PromptTemplate makes text for objective sft alone; remove promptRef",
            check=lambda job: job.prompt_ref is None or job.objective == "sft",
            field="promptRef",
        ),
        Rule(
            cel="!has(self.hyperparameters) || !has(self.hyperparameters.packing) ||"
            f" !self.hyperparameters.packing || {_is_one(objectives_where('packs'))}",
            message="hyperparameters.packing goes with objective sft; remove it",
            check=lambda job: (
                not (job.hyperparameters and job.hyperparameters.packing)
                or learner[job.objective].packs
            ),
            field="hyperparameters",
        ),
        Rule(
            cel="!has(self.evaluation) || !has(self.evaluation.maxRows) ||"
            f" {_is_one(objectives_where('generates'))}",
            message="evaluation.maxRows goes with objective sft, which compares answers; remove it",
            check=lambda job: (
                not job.evaluation
                or job.evaluation.max_rows is None
                or learner[job.objective].generates
            ),
            field="evaluation",
        ),
        Rule(
            cel="!has(self.evaluation) || !has(self.evaluation.maxNewTokens) ||"
            f" !({_is_one(objectives_where('scores'))})",
            message="a reward model generates nothing; remove evaluation.maxNewTokens",
            check=lambda job: (
                not job.evaluation
                or job.evaluation.max_new_tokens is None
                or not learner[job.objective].scores
            ),
            field="evaluation",
        ),
        Rule(
            cel="!has(self.evaluation) || !has(self.evaluation.baseline) ||"
            f" !self.evaluation.baseline || !({_is_one(objectives_where('reference'))})",
            message="objectives dpo and kto measure against the untrained model already; remove"
            " evaluation.baseline",
            check=lambda job: (
                not (job.evaluation and job.evaluation.baseline)
                or not learner[job.objective].reference
            ),
            field="evaluation",
        ),
        _promotion(),
        _arguments(),
    )


def _own(name: str) -> Rule:
    return Rule(
        cel=f"!has(self.{name}) || self.objective == '{name}'",
        message=f"{name} settings go with objective {name}; remove them or change the objective",
        check=lambda job: getattr(job, name) is None or job.objective == name,
        field=name,
    )


def _promotion() -> Rule:
    """promoteWhen asks only for metrics that a job of the objective may have."""
    metrics = {name: facts.final_metrics for name, facts in OBJECTIVES.items()}
    lists = ",".join(f"'{name}':{cel_list(names)}" for name, names in metrics.items())
    texts = ",".join(f"'{name}':'{', '.join(names)}'" for name, names in metrics.items())

    def check(job: Any) -> bool:
        registry = job.output.registry if job.output else None
        asked = (registry.promote_when if registry else None) or ()
        return all(rule.metric in metrics[job.objective] for rule in asked)

    return Rule(
        cel="!has(self.output) || !has(self.output.registry) ||"
        " !has(self.output.registry.promoteWhen) ||"
        f" self.output.registry.promoteWhen.all(r, r.metric in {{{lists}}}[self.objective])",
        message="promoteWhen may ask for final metrics of the objective",
        check=check,
        field="output",
        exact=Message(
            cel="'with objective ' + self.objective + ' promoteWhen may ask for '"
            f" + {{{texts}}}[self.objective]",
            text=lambda job: (
                f"with objective {job.objective} promoteWhen may ask for"
                f" {', '.join(metrics[job.objective])}"
            ),
        ),
    )


def _arguments() -> Rule:
    """Arguments of trl that only some objectives take."""
    takers = {name: " or ".join(objectives) for name, objectives in GOES_WITH.items()}
    place = "self.trainer.trl.arguments"
    table = "{" + ",".join(f"'{name}':'{objectives}'" for name, objectives in takers.items()) + "}"
    # No objective's name is a part of another's.
    is_wrong = f"!by[name].contains(self.objective) && dyn({place})[?name].hasValue()"

    def wrong(job: Any) -> list[str]:
        trl = job.trainer.trl if job.trainer else None
        arguments = trl.arguments if trl else None
        return [
            f"trainer.trl.arguments.{name} goes with objective {takers[name]}; remove it"
            for name, objectives in GOES_WITH.items()
            if job.objective not in objectives and getattr(arguments, name, None) is not None
        ]

    return Rule(
        cel=f"!has(self.trainer) || !has(self.trainer.trl) || !has({place}) ||"
        f" ![{table}].exists(by, by.exists(name, {is_wrong}))",
        message="trainer.trl.arguments has what goes with another objective; remove it",
        check=lambda job: not wrong(job),
        field="trainer",
        exact=Message(
            cel=cel_told(
                f"[{table}].map(by, by.filter(name, {is_wrong}).map(name, 'trainer.trl.arguments.'"
                " + name + ' goes with objective ' + by[name] + '; remove it'))[0]"
            ),
            text=lambda job: "; ".join(wrong(job)),
        ),
    )


def _is_one(objectives: tuple[str, ...]) -> str:
    if len(objectives) == 1:
        return f"self.objective == '{objectives[0]}'"
    return f"self.objective in {cel_list(objectives)}"
