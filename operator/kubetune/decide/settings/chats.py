"""Whether the rows of a job are chats, and what follows for the chat template."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec
from kubetune.api.kinds.status_types import ModelStatusDict
from kubetune.api.training.chat_templates import CHAT_TEMPLATES, MODEL
from kubetune.decide.resources import DatasetResource

CHAT_TYPES = ("messages", "list")
"""Types of columns that may hold chats, as an inspection names them."""


def may_chat(dataset: DatasetResource, prompt: PromptTemplateSpec | None) -> bool:
    """Whether a chat template may be needed, as far as the Dataset's inspection tells."""
    if prompt is not None:
        return prompt.messages is not None
    spec = dataset.spec
    if spec is None:
        return False
    if spec.format == "messages":
        return True
    if spec.format not in ("preference", "unpairedPreference"):
        return False
    columns = spec.columns or ColumnMapping()
    answer = columns.of("chosen" if spec.format == "preference" else "completion")
    # A prompt that is a chat makes a chat of answers that are text.
    looked_at = (answer, columns.of("prompt"))
    types = {column["name"]: column["type"] for column in dataset.status.get("columns") or ()}
    return any(types.get(name) in CHAT_TYPES for name in looked_at)


def template_problem(
    spec: FineTuneJobSpec, settings: JsonObject, model_name: str, model: ModelStatusDict
) -> str:
    """A sentence when spec.tokenizer.chatTemplate doesn't fit, else empty."""
    given = spec.tokenizer.chat_template if spec.tokenizer else None
    template = (settings.get("tokenizer") or {}).get("chatTemplate")
    if given and template is None:
        return (
            "tokenizer.chatTemplate makes text of chats, and the rows of this job aren't chats:"
            " remove it, or name a Dataset of format messages or a PromptTemplate with messages"
        )
    if template == MODEL and model.get("chatTemplate") is False:
        return (
            f"tokenizer.chatTemplate is model, but the tokenizer of Model {model_name} has no chat"
            f" template: set it to {', '.join(CHAT_TEMPLATES)} or to the text of one"
        )
    return ""
