"""What a reward model is asked to score, in the forms that callers use, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from .turns import ANSWERED, are_turns, chat_or_text, turns_of


@dataclass(frozen=True)
class Answered:
    """What a score is asked for: a prompt with its answer, or a chat that ends with one."""

    prompt: str = ""
    answer: str = ""
    turns: list[dict[str, Any]] | None = None


def answered_of(given: Any) -> list[Answered]:
    """What scores are asked for.

    Raises ValueError or TypeError with what is taken.
    """
    if hasattr(given, "columns"):
        names = [str(name) for name in given.columns]
        wanted = ["messages"] if "messages" in names else ["prompt", "completion"]
        if not set(wanted) <= set(names):
            raise ValueError(f"{ANSWERED}; this one has the columns {', '.join(names)}")
        cells = zip(*(given[name] for name in wanted), strict=True)
        given = [dict(zip(wanted, row, strict=True)) for row in cells]
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, dict) or are_turns(given):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{ANSWERED}; this is a {type(given).__name__}")
    return [_answered(one) for one in cast("Sequence[Any]", given)]


def _answered(one: Any) -> Answered:
    one = chat_or_text(one)
    if are_turns(one):
        return Answered(turns=turns_of(one, answered=True))
    if not isinstance(one, dict):
        raise TypeError(f"{ANSWERED}; this one is a {type(one).__name__}")
    items = cast("dict[str, Any]", one).items()
    fields = {name: value for name, value in items if value is not None}
    if set(fields) == {"messages"}:
        chat = chat_or_text(fields["messages"])
        if not are_turns(chat):
            raise ValueError(f"{ANSWERED}; these messages are no list of turns with role")
        return Answered(turns=turns_of(chat, answered=True))
    if set(fields) != {"prompt", "completion"}:
        raise ValueError(f"{ANSWERED}; this one has {', '.join(fields) or 'nothing'}")
    prompt, answer = (chat_or_text(fields[name]) for name in ("prompt", "completion"))
    if not (are_turns(prompt) or are_turns(answer)):
        return Answered(str(prompt), str(answer))
    before = prompt if are_turns(prompt) else [{"role": "user", "content": str(prompt)}]
    after = answer if are_turns(answer) else [{"role": "assistant", "content": str(answer)}]
    return Answered(turns=turns_of([*before, *after], answered=True))


def score(model: Any, rows: list[list[int]], pad: int, *, batch: int) -> list[float]:
    """The score of each text (token ids)."""
    import torch

    scores: list[float] = []
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        width = max(len(ids) for ids in chosen)
        ids = [[*row, *[pad] * (width - len(row))] for row in chosen]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in chosen]
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
            )
        scores += output.logits[:, 0].float().tolist()
    return scores
