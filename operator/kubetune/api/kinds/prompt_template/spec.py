"""Kind PromptTemplate: how a row becomes training text."""

from __future__ import annotations

import json
import re
from typing import ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import LocalRef, Value
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.rules import Rule, at_most_one

SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
"""``{column}`` is a slot; ``{{`` and ``}}`` are braces."""

MAX_TEMPLATE = 32768


class TemplateMessage(Value):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(
        min_length=1, max_length=MAX_TEMPLATE, description="Text with `{column}` slots."
    )


class PromptTemplateSpec(Value):
    """What the user declares: prompt and completion, or chat messages; neither asks for a guess."""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("computeTargetRef", "ComputeTarget", or_default=True),
        Reference("datasetRef", "Dataset"),
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most_one("prompt", "messages", hint="a template makes text or a chat"),
        Rule(
            cel="has(self.prompt) || has(self.messages) || has(self.datasetRef)",
            message="give prompt and completion, or messages; with datasetRef alone,"
            " status.suggestion has a guess from the Dataset's columns",
            check=lambda spec: (
                spec.prompt is not None or spec.messages is not None or spec.dataset_ref is not None
            ),
        ),
        Rule(
            cel="has(self.prompt) == has(self.completion)",
            message="completion goes with prompt: give both, or messages alone",
            check=lambda spec: (spec.prompt is None) == (spec.completion is None),
        ),
        Rule(
            cel="!has(self.sample) || !self.sample || has(self.datasetRef)",
            message="sample needs datasetRef: a sample is rendered from a row of it",
            check=lambda spec: not spec.sample or spec.dataset_ref is not None,
        ),
        Rule(
            cel="!has(self.messages) || self.messages.exists(m, m.role == 'assistant')",
            message="messages need one with role assistant: training learns the assistant's turns",
            check=lambda spec: (
                spec.messages is None
                or any(message.role == "assistant" for message in spec.messages)
            ),
        ),
    )

    prompt: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TEMPLATE,
        description="Input text with `{column}` slots; write `{{` for a brace.",
    )
    completion: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TEMPLATE,
        description="Answer text with `{column}` slots. Loss is computed on it alone.",
    )
    messages: list[TemplateMessage] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Turns of a chat, rendered with the model's chat template.",
    )
    dataset_ref: LocalRef | None = Field(
        default=None,
        description="Dataset whose columns the slots are checked against, and templates guessed"
        " from where there are none.",
    )
    sample: bool = Field(
        default=False,
        description="Show one rendered row in status. Rows can be private. Default false.",
    )


def slots(template: str) -> list[str]:
    """Column names of the template's ``{column}`` slots, in order, each once."""
    return list(
        dict.fromkeys(match[1] for match in SLOT.finditer(template) if match[1] is not None)
    )


def as_text(value: object) -> str:
    """A cell as text: what isn't text already is JSON, as the data was; nothing is empty text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def render(template: str, row: dict[str, object]) -> str:
    """Fill the slots of a template from a row.

    Raises KeyError naming the first column that the row lacks.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return as_text(row[match[1]])

    return SLOT.sub(fill, template)


def template_slots(spec: PromptTemplateSpec) -> list[str]:
    """All slots of a PromptTemplate, in order, each once."""
    texts = [spec.prompt, spec.completion, *(m.content for m in spec.messages or [])]
    return list(dict.fromkeys(slot for text in texts if text for slot in slots(text)))
