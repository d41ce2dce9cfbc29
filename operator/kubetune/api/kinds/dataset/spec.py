"""Kind Dataset: where rows come from, what they mean, and how they are split."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, JsonValue

from kubetune.api.schema.base import ConfigKey, LocalRef, ObjectName, SecretKeyRef, Value
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.references import ComputeTargetRef
from kubetune.api.schema.rules import Rule, exactly_one

FileFormat = Literal["csv", "json", "jsonl", "parquet"]
DatasetFormat = Literal["promptCompletion", "text", "messages", "preference", "unpairedPreference"]
Role = Literal["prompt", "completion", "text", "messages", "chosen", "rejected", "label", "tools"]
FORMAT_ROLES: Mapping[DatasetFormat, tuple[Role, ...]] = {
    "promptCompletion": ("prompt", "completion"),
    "text": ("text",),
    "messages": ("messages",),
    "preference": ("chosen", "rejected"),
    "unpairedPreference": ("prompt", "completion", "label"),
}
"""The columns that rows of a format must have, by role."""
OPTIONAL_ROLES: Mapping[DatasetFormat, tuple[Role, ...]] = {
    "messages": ("tools",),
    "preference": ("prompt",),
}
"""The columns that they may have beside."""
CONVERSATIONS = "conversations"
"""The column of chats in data sets of ShareGPT's form, where none is called messages."""
HubRepo = Annotated[
    str,
    Field(
        min_length=1,
        max_length=193,
        pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]*(/[A-Za-z0-9][-A-Za-z0-9_.]*)?$",
    ),
]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
RelativeGlob = Annotated[
    str, Field(min_length=1, max_length=1024, pattern=r"^[^/]", description="Relative path.")
]
INLINE_LIMIT_BYTES = 128 * 1024
DEFAULT_EVALUATION_FRACTION = 0.1
DEFAULT_SPLIT_SEED = 42


class CsvOptions(Value):
    """How csv files are written."""

    delimiter: str = Field(
        min_length=1,
        max_length=1,
        pattern=r'^[^"\r\n\x00]$',
        description="Character between cells, such as `;` or, in double quotes, `\\t`.",
    )


CSV = Field(
    default=None,
    description="How csv files are written. Default: commas between cells, or what the header has"
    " in their place, which status.problems tells.",
)
CSV_RULE = Rule(
    cel="!has(self.csv) || self.format == 'csv'",
    message="csv is for files of format csv; remove it, or set format to csv",
    check=lambda source: source.csv is None or source.format == "csv",
)


class HuggingFaceDataset(Value):
    """A dataset repository of a Hugging Face hub."""

    repo: HubRepo = Field(description="Repository, `owner/name`.")
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=255,
        description="Branch, tag or commit. Resolved once to a commit. Default main.",
    )
    config: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="Configuration (subset) of the dataset. Default: the repository's own.",
    )
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Access token for private or gated repositories."
    )
    csv: CsvOptions | None = CSV


class VolumeFiles(Value):
    """Files on a PersistentVolumeClaim."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim in the same namespace; mounted read-only."
    )
    glob: RelativeGlob = Field(
        description="Files relative to the volume's root, such as `tickets/*.jsonl`."
    )
    format: FileFormat = Field(description="Format of every file: csv, json, jsonl or parquet.")
    csv: CsvOptions | None = CSV


class ProjectFiles(Value):
    """Files of the CML project that the compute target names."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    glob: RelativeGlob = Field(
        description="Files relative to the project's root, such as `data/tickets/*.jsonl`."
    )
    format: FileFormat = Field(description="Format of every file: csv, json, jsonl or parquet.")
    csv: CsvOptions | None = CSV


class HttpFile(Value):
    """One file behind an https address."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    url: str = Field(
        min_length=9,
        max_length=2048,
        pattern=r"^https://[!-~]+$",
        description="https address of the file.",
    )
    format: FileFormat = Field(description="Format of the file: csv, json, jsonl or parquet.")
    csv: CsvOptions | None = CSV


class ConfigMapFile(Value):
    """One key of a ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    name: ObjectName = Field(description="ConfigMap in the same namespace.")
    key: ConfigKey = Field(description="Key whose value holds the rows.")
    format: Literal["csv", "json", "jsonl"] = Field(
        default="jsonl", description="Format of the value: csv, json or jsonl. Default jsonl."
    )
    csv: CsvOptions | None = CSV


class InlineRows(Value):
    """Rows in the manifest itself; at most 128 KiB."""

    rows: list[dict[str, JsonValue]] = Field(
        min_length=1, max_length=1000, description="Rows, each a map from column to value."
    )


class DatasetSource(Value):
    """Where rows come from; exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("hugging_face", "volume", "project", "http", "config_map", "inline"),
    )

    hugging_face: HuggingFaceDataset | None = Field(
        default=None, description="A dataset repository of a Hugging Face hub."
    )
    volume: VolumeFiles | None = Field(
        default=None, description="Files on a PersistentVolumeClaim."
    )
    project: ProjectFiles | None = Field(
        default=None, description="Files of the CML project; on targets of type cml."
    )
    http: HttpFile | None = Field(default=None, description="One file behind an https address.")
    config_map: ConfigMapFile | None = Field(default=None, description="One key of a ConfigMap.")
    inline: InlineRows | None = Field(
        default=None, description="Rows in the manifest itself; at most 128 KiB."
    )


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
        description="Column of unpairedPreference that tells whether the completion is good:"
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
            cel="!has(self.evaluation) || self.evaluationFraction in [0.0, 0.1]",
            message="evaluationFraction is of the training split, and evaluation names another one"
            " to hold out: remove one of them",
            check=lambda splits: (
                splits.evaluation is None
                or splits.evaluation_fraction in (0, DEFAULT_EVALUATION_FRACTION)
            ),
            field="evaluationFraction",
        ),
        Rule(
            cel="self.seed == 42 || (!has(self.evaluation) && self.evaluationFraction > 0.0)",
            message="seed draws the share evaluationFraction of the training split, and nothing is"
            " to be drawn: remove it",
            check=lambda splits: (
                splits.seed == DEFAULT_SPLIT_SEED
                or (splits.evaluation is None and splits.evaluation_fraction > 0)
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
        " has one beside the training split, else a fraction of the training split.",
    )
    evaluation_fraction: float = Field(
        default=DEFAULT_EVALUATION_FRACTION,
        ge=0,
        le=0.9,
        description="Share of the training split that is held out when the source has no split"
        " for it; 0 holds out nothing. Default 0.1.",
    )
    seed: int = Field(
        default=DEFAULT_SPLIT_SEED,
        ge=0,
        le=2**31 - 1,
        description="Seed of the random split. Default 42.",
    )


CheckPolicy = Literal["Ignore", "Warn", "Refuse"]


class Checks(Value):
    """What follows from what is wrong with the rows; the counts stand in status.checks anyway.

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
        description="Chats with parts that the chat template doesn't show, such as a system turn:"
        " Ignore, Warn or Refuse. The template is that of tokenizerRef, in a job its own. Default"
        " Warn.",
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


def inline_rows_size(rows: list[dict[str, Any]]) -> int:
    """Bytes of the rows as compact JSON lines; at most INLINE_LIMIT_BYTES are accepted."""
    import json

    return sum(
        len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()) + 1 for row in rows
    )


def boolean_instead_of_text(spec: DatasetSpec) -> tuple[int, str] | None:
    """Row, from 0, and column of an inline cell that was text before YAML read it, by its looks.

    YAML takes yes, no, on, off, y and n without quotes for booleans. A column that is to be text
    has none, and no column has both.
    """
    if spec.source.inline is None:
        return None
    rows, mapping = spec.source.inline.rows, spec.columns or ColumnMapping()
    roles = (*FORMAT_ROLES[spec.format], *OPTIONAL_ROLES.get(spec.format, ()))
    texts = {mapping.of(role) for role in roles if role not in ("label", "tools", "messages")}
    for row in rows:
        texts |= {name for name, value in row.items() if isinstance(value, str)}
    chats = mapping.of("messages", rows[0]) if spec.format == "messages" else None
    for at, row in enumerate(rows):
        for name, value in row.items():
            if name in texts - {mapping.of("label")} and isinstance(value, bool):
                return at, name
            if name == chats and isinstance(value, list):
                contents = [turn.get("content") for turn in value if isinstance(turn, dict)]
                if any(isinstance(content, bool) for content in contents):
                    return at, name
    return None


BOOLEAN_ADVICE = (
    "holds true or false where text belongs: YAML reads yes, no, on, off, y and n without quotes"
    " so; put quotes around the text, as in 'yes'"
)
