"""Kind Dataset: where rows come from, what they mean, and how they are split."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from kubetune.api.kinds.dataset.sources import DatasetSource
from kubetune.api.rows import CONVERSATIONS, FORMAT_ROLES, OPTIONAL_ROLES, DatasetFormat, Role
from kubetune.api.schema.base import LocalRef, Value
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.references import ComputeTargetRef
from kubetune.api.schema.rules import Rule

ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
DEFAULT_EVALUATION_FRACTION = 0.1
MOST_HELD_OUT_BY_DEFAULT = 10_000
DEFAULT_SPLIT_SEED = 42
DEFAULT_LOSS_ROWS = 2000
"""Held-out rows that a loss is a mean over, of jobs and of Evaluations."""


def _about(role: Role) -> Rule:
    """A column of a role that no row of the format has would be named in vain."""
    formats = [format for format, roles in FORMAT_ROLES.items() if role in roles]
    formats += [format for format, roles in OPTIONAL_ROLES.items() if role in roles]
    asked = " || ".join(f"self.format == '{format}'" for format in formats)
    is_open = role in ("label", "tools")
    silent = f"!has(self.columns.{role})" if is_open else f"self.columns.{role} == '{role}'"
    return Rule(
        cel=f"!has(self.columns) || {silent} || {asked}",
        message=f"columns.{role} is for format {' or '.join(formats)}; remove it, or set format",
        check=lambda spec: (
            spec.columns is None
            or getattr(spec.columns, role) in (None, role)
            or spec.format in formats
        ),
        field=f"columns.{role}",
    )


class ColumnMapping(Value):
    """Which columns play which role. Defaults are the role's own name."""

    prompt: ColumnName = Field(
        default="prompt",
        description="Input column of promptCompletion, unpairedPreference and, where there is"
        " one, of preference. Default prompt.",
    )
    completion: ColumnName = Field(
        default="completion",
        description="Answer column of promptCompletion and unpairedPreference. Default completion.",
    )
    text: ColumnName = Field(default="text", description="Column of format text. Default text.")
    messages: ColumnName = Field(
        default="messages",
        description="Column of format messages, whose turns have role and content or, as in"
        " ShareGPT's form, from and value. Default messages, or conversations where only that is"
        " there.",
    )
    chosen: ColumnName = Field(
        default="chosen", description="Preferred answer of preference pairs. Default chosen."
    )
    rejected: ColumnName = Field(
        default="rejected", description="Refused answer of preference pairs. Default rejected."
    )
    label: ColumnName | None = Field(
        default=None,
        description="Column of unpairedPreference that says whether the completion is good:"
        " true or false, also as text or as 1 and 0. Default label.",
    )
    tools: ColumnName | None = Field(
        default=None,
        description="Column of format messages with the tools that the assistant may call, as a"
        " list of JSON schemas or JSON text of one; rows may have none. Default tools.",
    )

    def of(self, role: Role, among: Container[str] = ()) -> str:
        """The column that plays a role; ``among`` are the columns that there are."""
        # Label and tools are younger than the first digests over mappings, which must stay valid:
        # so they have no default on the wire.
        name = getattr(self, role) or role
        if name == role == "messages" and name not in among and CONVERSATIONS in among:
            return CONVERSATIONS
        return name


class Splits(Value):
    """Which rows train and which are held out."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.evaluation) || !has(self.evaluationFraction) ||"
            " self.evaluationFraction in [0.0, 0.1]",
            message="evaluationFraction is a share of the training split, and evaluation names"
            " another one to hold out: remove one of them",
            check=lambda splits: (
                splits.evaluation is None
                or splits.evaluation_fraction in (None, 0, DEFAULT_EVALUATION_FRACTION)
            ),
            field="evaluationFraction",
        ),
        Rule(
            cel="self.seed == 42 || has(self.evaluation) || !has(self.evaluationFraction) ||"
            " self.evaluationFraction > 0.0",
            message="seed draws held-out rows and those of them that a loss is measured on, and"
            " evaluationFraction 0 holds out none: remove it",
            check=lambda splits: (
                splits.seed == DEFAULT_SPLIT_SEED
                or splits.evaluation is not None
                or splits.evaluation_fraction != 0
            ),
            field="seed",
        ),
    )

    train: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Source split to train on. Default: `train`, else the only split there is.",
    )
    evaluation: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Source split to hold out. Default: `validation` or `test` where the source"
        " has one besides the training split, else a fraction of the training split.",
    )
    evaluation_fraction: float | None = Field(
        default=None,
        ge=0,
        le=0.9,
        description="Share of the training split that is held out when the source has no split"
        " for it, however many rows that is; 0 holds out nothing. Default 0.1, but at most 10,000"
        " rows.",
    )
    seed: int = Field(
        default=DEFAULT_SPLIT_SEED,
        ge=0,
        le=2**31 - 1,
        description="Seed of the random split, and of the choice of held-out rows that a loss is"
        " measured on. Default 42.",
    )

    def held_out_of(self, count: int) -> int:
        """How many of ``count`` rows are held out where the source has no split for it."""
        if self.evaluation_fraction is not None:
            return round(self.evaluation_fraction * count)
        return min(round(DEFAULT_EVALUATION_FRACTION * count), MOST_HELD_OUT_BY_DEFAULT)


CheckPolicy = Literal["Ignore", "Warn", "Refuse"]


class Checks(Value):
    """What follows from what is wrong with the rows; the counts are in status.checks anyway.

    Warn sets the condition ChecksPassed to False, Refuse also keeps the Dataset from being Ready.
    """

    duplicates: CheckPolicy = Field(
        default="Warn",
        description="Rows that are equal to an earlier one of the same split: Ignore, Warn or"
        " Refuse. Default Warn.",
    )
    unusable: CheckPolicy = Field(
        default="Warn",
        description="Rows that don't fit the format and are left out: Ignore, Warn or Refuse."
        " Default Warn.",
    )
    hidden_parts: CheckPolicy = Field(
        default="Warn",
        description="Rows with parts that their training text doesn't show, such as a system turn"
        " that the chat template leaves out, or a column system that nobody reads: Ignore, Warn or"
        " Refuse. The template is that of tokenizerRef, in a job its own. Default Warn.",
    )
    leakage: CheckPolicy = Field(
        default="Warn",
        description="Held-out rows that also train: Ignore, Warn or Refuse. Default Warn.",
    )
    prompt_leakage: CheckPolicy = Field(
        default="Warn",
        description="Held-out rows whose prompt also trains, with another answer: Ignore, Warn or"
        " Refuse. Default Warn.",
    )


class DatasetSpec(Value):
    """What the user declares."""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("computeTargetRef", "ComputeTarget", or_default=True),
        Reference("tokenizerRef", "Model"),
        Reference("source.configMap", "ConfigMap"),
    )
    rules: ClassVar[tuple[Rule, ...]] = tuple(_about(role) for role in get_args(Role))

    source: DatasetSource = Field(description="Where rows come from; exactly one.")
    format: DatasetFormat = Field(
        default="promptCompletion",
        description="Shape of a row: promptCompletion, text or messages (chat) for objective sft,"
        " preference (a chosen and a rejected answer) for dpo and reward, unpairedPreference (an"
        " answer with a label true or false) for kto. Answers and their prompt may be text or"
        " chats. With a PromptTemplate the columns are free. Default promptCompletion.",
    )
    columns: ColumnMapping | None = Field(
        default=None, description="Column names, where they differ from the roles' names."
    )
    splits: Splits | None = Field(default=None, description="Training and held-out rows.")
    tokenizer_ref: LocalRef | None = Field(
        default=None,
        description="Model whose tokenizer counts tokens for the lengths in status. Default: none,"
        " characters are counted.",
    )
    checks: Checks | None = Field(
        default=None,
        description="What follows from duplicate and leaked rows. Default: a warning.",
    )
    compute_target_ref: ComputeTargetRef | None = Field(
        default=None, description="Where the inspection runs. Default: the default target."
    )
