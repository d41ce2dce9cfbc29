"""Kind renderPrompt: the first training row as the prompt template makes it."""

from __future__ import annotations

from typing import Any, cast

from kubetune.api.inspection import PromptSample
from kubetune.api.plan import DatasetPlan, PromptPlan
from kubetune.api.prompt_template import as_text, render

from kubetune_runner.data import Row
from kubetune_runner.data.findings import listing, quote
from kubetune_runner.data.reading import read
from kubetune_runner.errors import RunError

LIMIT = 1000
"""Characters of each text."""
KEPT_ROWS = 1000
"""Rows that are looked through for one that trains; the first ones may be held out."""


def render_sample(plan: DatasetPlan, prompt: PromptPlan | None, token: str | None) -> PromptSample:
    """Render the first row that trains, with the template or the dataset's own columns.

    Chats are shown as one block a turn, headed by its role: the model's chat template only
    adds its own marks. Raises RunError as ``data.load`` does, and SlotMissing.
    """
    row = read(plan, token, keep_rows=KEPT_ROWS).train_rows()[0]
    try:
        before, answer = _render(plan, prompt, row)
    except KeyError as error:
        name = str(error.args[0])
        raise RunError(
            "SlotMissing",
            f"slot {quote(name)}: the row has no such column; it has {listing(sorted(row))}",
        ) from error
    return PromptSample(prompt=_cut(before), completion=_cut(answer))


def _render(plan: DatasetPlan, prompt: PromptPlan | None, row: Row) -> tuple[str, str]:
    mapping = plan.columns
    if prompt is None:
        if plan.format == "messages":
            return _chat(cast("list[dict[str, Any]]", row[mapping.messages]))
        if plan.format == "text":
            return as_text(row[mapping.text]), ""
        answer = mapping.chosen if plan.format == "preference" else mapping.completion
        return as_text(row[mapping.prompt]), as_text(row[answer])
    if prompt.messages:
        return _chat(
            [
                {"role": message.role, "content": render(message.content, row)}
                for message in prompt.messages
            ]
        )
    return render(prompt.prompt or "", row), render(prompt.completion or "", row)


def _chat(turns: list[dict[str, Any]]) -> tuple[str, str]:
    """The turns up to the last answer, and that answer."""
    last = max((at for at, turn in enumerate(turns) if turn.get("role") == "assistant"), default=-1)
    before = turns[:last] if last >= 0 else turns
    answer = str(turns[last].get("content") or "") if last >= 0 else ""
    return "\n\n".join(
        f"{turn.get('role')}:\n{turn.get('content') or ''}" for turn in before
    ), answer


def _cut(text: str) -> str:
    return text if len(text) <= LIMIT else f"{text[: LIMIT - 1]}…"
