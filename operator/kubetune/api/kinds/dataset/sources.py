"""Where the rows of a Dataset come from: what a user declares, and what a run is told of it.

Each source has a class with the fields of the manifest and ``line``. Runs know fewer of them: what
is mounted is files, whatever it is mounted from.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, JsonValue, field_validator

from kubetune.api.rows import FileFormat
from kubetune.api.schema.addresses import FileAddress
from kubetune.api.schema.base import (
    ConfigKey,
    HubRepo,
    ObjectName,
    PlanValue,
    SecretKeyRef,
    Value,
)
from kubetune.api.schema.rules import Rule, exactly_one

RelativeGlob = Annotated[
    str, Field(min_length=1, max_length=1024, pattern=r"^[^/]", description="Relative path.")
]


INLINE_LIMIT_BYTES = 128 * 1024
INLINE_LIMIT_NESTED = 100


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
    " in their place, which status.problems reports.",
)


CSV_RULE = Rule(
    cel="!has(self.csv) || self.format == 'csv'",
    message="csv is for files of format csv; remove it, or set format to csv",
    check=lambda source: source.csv is None or source.format == "csv",
)


class RowsSource(Value):
    """What every source has."""

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        raise NotImplementedError

    @property
    def token(self) -> SecretKeyRef | None:
        """The access token that a run reads it with."""
        return None


class HuggingFaceDataset(RowsSource):
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

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        return f"hf://{self.repo}@{self.revision}" + (f" ({self.config})" if self.config else "")

    @property
    def token(self) -> SecretKeyRef | None:
        """Where it is private or gated."""
        return self.token_secret_ref


class VolumeFiles(RowsSource):
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

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        return f"pvc://{self.claim_name}/{self.glob}"


class ProjectFiles(RowsSource):
    """Files of the CML project that the compute target names."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    glob: RelativeGlob = Field(
        description="Files relative to the project's root, such as `data/tickets/*.jsonl`."
    )
    format: FileFormat = Field(description="Format of every file: csv, json, jsonl or parquet.")
    csv: CsvOptions | None = CSV

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        return f"project://{self.glob}"


class HttpFile(RowsSource):
    """One file behind an https address."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    url: FileAddress = Field(
        description="https address of the file, with a query if it is a signed one."
    )
    format: FileFormat = Field(description="Format of the file: csv, json, jsonl or parquet.")
    csv: CsvOptions | None = CSV

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        return self.url


class ConfigMapFile(RowsSource):
    """One key of a ConfigMap."""

    rules: ClassVar[tuple[Rule, ...]] = (CSV_RULE,)

    name: ObjectName = Field(description="ConfigMap in the same namespace.")
    key: ConfigKey = Field(description="Key whose value holds the rows.")
    format: Literal["csv", "json", "jsonl"] = Field(
        default="jsonl", description="Format of the value: csv, json or jsonl. Default jsonl."
    )
    csv: CsvOptions | None = CSV

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        return f"configmap://{self.name}/{self.key}"


class InlineRows(RowsSource):
    """Rows in the manifest itself; at most 128 KiB."""

    rows: list[dict[str, JsonValue]] = Field(
        min_length=1, max_length=1000, description="Rows, each a map from column to value."
    )

    @field_validator("rows", mode="before")
    @classmethod
    def _rows_of_json(cls, rows: Any) -> Any:
        """What readers of JSON don't agree on, before a deep row fails in words of its own."""
        for number, row in enumerate(cast("list[Any]", rows) if isinstance(rows, list) else [], 1):
            _check_row(row, number)
        return rows

    @property
    def line(self) -> str:
        """The source in one line, for status."""
        return f"inline ({len(self.rows)} rows)"


def _check_row(row: Any, number: int) -> None:
    """Raise ValueError for a row that is too deep, or holds half of a surrogate pair."""
    values: list[tuple[Any, int]] = [(row, 0)]
    while values:
        value, depth = values.pop()
        inner: list[Any] = []
        if isinstance(value, dict):
            fields = cast("dict[Any, Any]", value)
            inner = [*fields, *fields.values()]
        elif isinstance(value, list):
            inner = cast("list[Any]", value)
        elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"row {number} holds half of a surrogate pair; write the whole one")
        if inner and depth >= INLINE_LIMIT_NESTED:
            raise ValueError(
                f"row {number} has more than {INLINE_LIMIT_NESTED} lists and maps in each other;"
                " put what is deeper into a text of JSON"
            )
        values += [(item, depth + 1) for item in inner]


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

    @cached_property
    def given(self) -> RowsSource:
        """The source that the manifest has."""
        return next(source for _, source in self if source is not None)

    @property
    def token(self) -> SecretKeyRef | None:
        """The access token that a run reads it with."""
        return self.given.token


class HubSource(PlanValue):
    """A repository of a Hugging Face hub at a revision (commit, once it was resolved)."""

    repo: str
    revision: str
    config: str | None = None
    """Datasets only."""
    delimiter: str | None = None
    """Of csv files; without it commas, or what the header has in their place."""


class FilesSource(PlanValue):
    """Files below a mounted folder."""

    directory: str
    """Absolute path in the container."""
    glob: str
    format: FileFormat
    delimiter: str | None = None
    """As of a HubSource."""


class HttpSource(PlanValue):
    """One file behind an https address."""

    url: str
    format: FileFormat
    delimiter: str | None = None
    """As of a HubSource."""


class ReadFrom(PlanValue):
    """Where a run reads rows; the runner has a module for each field, in ``data/sources``."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("hub", "files", "http"),)

    hub: HubSource | None = None
    files: FilesSource | None = None
    """Volume, CML project, ConfigMap and inline rows."""
    http: HttpSource | None = None
