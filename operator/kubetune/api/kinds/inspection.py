"""What an inspection finds: the summary of its outcome and, in part, the object's status."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kubetune.api.schema.base import Value
from kubetune.api.training.families import PadTokenFrom
from kubetune.api.training.trained_rows import MAX_TRAINED_ROWS, TrainedRows

MAX_COLUMNS = 200
MAX_PROBLEMS = 20
MAX_BUCKETS = 32
MAX_MATRICES = 32
MAX_MODULES = 64


class Column(Value):
    """A column and its type."""

    name: str = Field(description="Column name.")
    type: str = Field(description="string, int, float, bool, list, map, messages or null.")


class Problem(Value):
    """Something wrong with the source."""

    row: int | None = Field(default=None, description="Row in its file, from 1.")
    file: str | None = Field(default=None, description="File, relative to the source.")
    field: str | None = Field(default=None, description="Column.")
    message: str = Field(max_length=512, description="What is wrong and what to do.")


class SplitRows(Value):
    """Rows per split after splitting."""

    train: int = Field(description="Rows that train.")
    evaluation: int = Field(description="Rows that are held out.")


class LengthBucket(Value):
    """Rows of about one length."""

    up_to: int = Field(description="Longest row that counts here; the next shorter is before.")
    rows: int = Field(description="Rows.")
    total: int = Field(description="Tokens, or characters, of these rows.")


class LengthHistogram(Value):
    """Lengths of the rows' text, in tokens where a tokenizer is known, else in characters."""

    unit: Literal["tokens", "characters"] = Field(
        default="tokens", description="What is counted: tokens or characters."
    )
    tokenizer: str | None = Field(default=None, description="Model whose tokenizer counted.")
    minimum: int = Field(description="Length of the shortest row.")
    median: int = Field(description="Median length.")
    p95: int = Field(description="95 of 100 rows are at most so long.")
    maximum: int = Field(description="Length of the longest row.")
    total: int = Field(description="Length of all rows together.")
    buckets: list[LengthBucket] | None = Field(
        default=None,
        max_length=MAX_BUCKETS,
        description="Rows by length, in powers of two; buckets without rows are left out.",
    )


class RowChecks(Value):
    """What the check of the rows has counted."""

    duplicate_rows: int = Field(
        description="Rows that are equal to an earlier one of the same split."
    )
    leaked_rows: int = Field(description="Held-out rows that also train.")
    leaked_prompts: int = Field(
        description="Held-out rows whose prompt also trains, with another answer."
    )
    empty_rows: int = Field(description="Rows without a prompt, an answer or text, left out.")
    unusable_rows: int = Field(
        default=0, description="Rows that don't fit the format; left out without a PromptTemplate."
    )
    hidden_part_rows: int = Field(
        default=0,
        description="Rows with parts that their training text doesn't show: that the chat template"
        " of tokenizerRef leaves out, or that nobody reads.",
    )
    trainable_rows: int | None = Field(
        default=None, description="Training rows that train without a PromptTemplate."
    )
    long_rows: int = Field(description="Rows that are longer than longLimit.")
    long_limit: int = Field(
        description="Context length of the tokenizer's model, or 8,192 tokens; without a"
        " tokenizer 32,768 characters."
    )


class DatasetInspection(Value):
    """Summary of kind inspectDataset."""

    revision: str | None = Field(default=None, description="Resolved commit of a hub source.")
    digest: str = Field(description="sha256 of the content, `sha256:<hex>`.")
    split_digest: str = Field(description="sha256 over the rows of each split, in order.")
    rows: SplitRows = Field(description="Rows per split.")
    columns: list[Column] = Field(description="Columns with types, at most 200.")
    columns_truncated: bool = False
    lengths: LengthHistogram | None = Field(
        default=None, description="Lengths of rows, in tokens when a tokenizer is known."
    )
    checks: RowChecks | None = Field(
        default=None, description="Duplicate, leaked, empty and very long rows."
    )
    problems: list[Problem] = Field(
        default_factory=list[Problem], description="The first 20 problems."
    )
    problem_count: int = Field(default=0, description="All problems.")
    report_uri: str | None = Field(default=None, description="Artifact with all problems.")


class WeightMatrix(Value):
    """Matrices of one name and shape, in all layers together."""

    name: str = Field(description="Last part of the module's name, such as q_proj.")
    count: int = Field(description="How many there are.")
    rows: int = Field(description="Rows, which mostly are outputs.")
    columns: int = Field(description="Columns, which mostly are inputs.")


class AdapterSettings(Value):
    """Settings that an adapter was made with, named as in method.lora."""

    rank: int = Field(description="Rank of the update matrices.")
    alpha: int = Field(description="Scaling numerator.")
    dropout: float = Field(default=0.0, description="Dropout on the adapter's input.")
    target_modules: list[str] | None = Field(
        default=None,
        max_length=MAX_MODULES,
        description="Names of the adapted modules; absent when there are more than 64.",
    )
    bias: str = Field(default="none", description="Which biases train: none, all or lora_only.")
    use_rslora: bool = Field(default=False, description="Scaled by alpha / sqrt(rank).")
    use_dora: bool = Field(default=False, description="Magnitudes are learned apart.")
    modules_to_save: list[str] | None = Field(
        default=None, max_length=MAX_MODULES, description="Modules stored with all their weights."
    )


class ModelShape(Value):
    """What a model is made of, as far as its files tell."""

    adapter: AdapterSettings | None = Field(
        default=None, description="LoRA adapters: the settings they were made with."
    )
    hidden_size: int | None = Field(default=None, description="Width of the hidden states.")
    vocabulary_size: int | None = Field(default=None, description="Entries of the vocabulary.")
    layers: int | None = Field(default=None, description="Hidden layers.")
    attention_heads: int | None = Field(default=None, description="Heads of the attention.")
    key_value_heads: int | None = Field(
        default=None, description="Heads that have keys and values of their own."
    )
    head_size: int | None = Field(default=None, description="Width of a head.")
    intermediate_size: int | None = Field(
        default=None, description="Width of the layers' inner projection."
    )
    experts: int | None = Field(default=None, description="Experts of a layer, where it has some.")
    tied_embeddings: bool | None = Field(
        default=None, description="Input and output layer share their weights."
    )
    matrices: list[WeightMatrix] | None = Field(
        default=None,
        max_length=MAX_MATRICES,
        description="Weight matrices by name and shape; absent where there are too many sorts.",
    )


class ModelInspection(ModelShape):
    """Summary of kind inspectModel."""

    type: Literal["base", "adapter"] = Field(description="base or adapter.")
    revision: str = Field(
        description="Commit (hub), version (registry) or content digest (volume)."
    )
    trained_on: list[TrainedRows] | None = Field(
        default=None,
        max_length=MAX_TRAINED_ROWS,
        description="Registered versions: rows that trained them, by their tags.",
    )
    architecture: str = Field(description="Architecture class, such as LlamaForCausalLM.")
    model_type: str = Field(description="transformers model type, such as llama.")
    parameters: int | None = Field(default=None, description="Number of parameters.")
    dtype: str | None = Field(default=None, description="Number format of the stored weights.")
    context_length: int | None = Field(default=None, description="Longest sequence, in tokens.")
    size_bytes: int | None = Field(default=None, description="Bytes of the weight files.")
    license: str | None = Field(default=None, description="License as the repository names it.")
    chat_template: bool = Field(description="Whether the tokenizer has a chat template.")
    pad_token: str | None = Field(
        default=None, max_length=128, description="Token that pads, as far as the files tell."
    )
    pad_token_from: PadTokenFrom | None = Field(
        default=None,
        description="What that token is: the tokenizer's own, a reserved one, the unknown one or"
        " the end token. Padding is masked, so an end token is learned all the same.",
    )
    base_model: str | None = Field(
        default=None, description="Adapters: base_model_name_or_path of adapter_config.json."
    )
    adapter_rank: int | None = Field(default=None, description="Adapters: rank.")


class PromptSample(Value):
    """Summary of kind renderPrompt: one rendered row, each text at most 1,000 characters."""

    prompt: str = Field(description="Rendered prompt, or the chat up to the last answer.")
    completion: str = Field(description="Rendered completion, or the last answer.")
