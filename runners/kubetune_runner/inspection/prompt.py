"""Kind renderPrompt: the first training row as the prompt template makes it."""

from __future__ import annotations

from typing import Any

from kubetune.api.kinds.inspection import PromptSample
from kubetune.api.kinds.prompt_template.spec import as_text
from kubetune.api.run.plan import DatasetPlan, PromptPlan

from kubetune_runner.data import Row
from kubetune_runner.data.reading import read
from kubetune_runner.data.verdicts import fault_of
from kubetune_runner.errors import RunError
from kubetune_runner.text.prompts import make_examples

LIMIT = 1000
"""Characters of each text."""
KEPT_ROWS = 1000
"""Rows that are looked through for one that trains; the first ones may be held out."""


def render_sample(plan: DatasetPlan, prompt: PromptPlan | None, token: str | None) -> PromptSample:
    """Render the first row that trains, with the template or the dataset's own columns.

    Chats are shown as one block a turn, headed by its role: the model's chat template only
    adds its own marks. Raises RunError as ``data.load`` does, and SlotMissing.
    """
    reading = read(plan, token, keep_rows=KEPT_ROWS)
    known = [column.name for column in reading.columns]
    rows = reading.first_rows()
    if prompt is None and plan.format in ("preference", "unpairedPreference"):
        before, answer = _preference(plan, rows)
        return PromptSample(prompt=_cut(before), completion=_cut(answer))
    try:
        examples = make_examples(rows, plan, prompt, known=known)
    except RunError as error:
        if error.reason != "ColumnMissing":
            raise
        raise RunError("SlotMissing", error.message) from error
    # A Dataset whose first rows are all of no use is shown as it is.
    shown = next((each for each in examples if not (each.empty or each.unusable)), examples[0])
    if shown.messages is not None:
        before, answer = _chat(shown.messages)
    else:
        before, answer = shown.prompt or shown.text or "", shown.completion or ""
    return PromptSample(prompt=_cut(before), completion=_cut(answer))


def _preference(plan: DatasetPlan, rows: list[Row]) -> tuple[str, str]:
    """Prompt and the better answer of the first row that can be used."""
    mapping = plan.columns
    usable = (row for row in rows if fault_of(row, plan.format, mapping) is None)
    row = next(usable, rows[0])
    answer = mapping.of("chosen" if plan.format == "preference" else "completion")
    return as_text(row.get(mapping.of("prompt"))), as_text(row.get(answer))


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
