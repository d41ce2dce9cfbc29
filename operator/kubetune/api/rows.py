"""What a row may hold: formats, and the roles of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
"""The columns that they may have as well."""
CONVERSATIONS = "conversations"
"""The column of chats in data sets of ShareGPT's form, where none is called messages."""


def loss_rows(measured: int, held_out: int, what: str = "held-out rows") -> str:
    """What a loss is a mean over, in words: ``loss on 2,000 of 100,000 held-out rows``."""
    said = f"{measured:,} of {held_out:,}" if measured < held_out else f"all {held_out:,}"
    return f"loss on {said} {what}"
