"""A guess at what a PromptTemplate may say, from the names of a Dataset's columns.

Nobody trains on a guess: it stands in status, and a user copies it.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubetune.api.kinds.status_types import ColumnDict, PromptSuggestionDict
from kubetune.api.schema.suggestions import listed
from kubetune.decide.settings.chats import CHAT_TYPES

VERDICTS = (
    "label",
    "good",
    "is_good",
    "correct",
    "is_correct",
    "accepted",
    "desirable",
    "thumbs_up",
)
"""Whether an answer is good."""
TRUTHS = ("bool", "int")
GRADES = ("rating", "score", "stars", "grade", "reward", "quality", "upvotes")
"""How good it is."""
MAX_LEFT_OUT = 16
CHATS = ("messages", "conversations", "conversation", "chat", "dialogue", "turns")
CHOSEN = ("chosen", "preferred", "accepted")
REJECTED = ("rejected", "refused", "dispreferred")
TEXTS = ("text", "content", "document", "body")
SYSTEMS = ("system", "system_prompt")
CONTEXTS = ("context", "passage", "article")
QUESTIONS = (
    "prompt",
    "instruction",
    "question",
    "query",
    "problem",
    "user",
    "input",
    "source",
    "document",
    "article",
)
EXTRAS = ("input", "inputs")
"""Next to an instruction."""
ANSWERS = (
    "completion",
    "output",
    "response",
    "answer",
    "solution",
    "target",
    "assistant",
    "summary",
    "reply",
    "label",
)


def suggest(columns: Sequence[ColumnDict]) -> PromptSuggestionDict | None:
    """status.suggestion for columns with names and types; None where no name tells anything."""
    chat = _find(CHATS, [column for column in columns if column["type"] in CHAT_TYPES]) or next(
        (column["name"] for column in columns if column["type"] == "messages"), None
    )
    chosen, rejected = _find(CHOSEN, columns), _find(REJECTED, columns)
    if chosen and rejected:
        return _dataset("preference", chosen=chosen, rejected=rejected)
    if chat:
        return _dataset("messages", messages=chat)
    # A name with a brace can't be a slot.
    usable = [
        column
        for column in columns
        if column["type"] not in (*CHAT_TYPES, "map")
        if not set(column["name"]) & set("{}")
    ]
    question, answer = _find(QUESTIONS, usable), _find(ANSWERS, usable)
    if question and answer and question != answer:
        verdict = _find(VERDICTS, [column for column in columns if column["type"] in TRUTHS])
        if verdict and verdict not in (question, answer):
            # A template would train on answers that were labelled bad.
            roles = {"prompt": question, "completion": answer, "label": verdict}
            return _dataset("unpairedPreference", **roles)
        prompt, completion = _prompt(question, usable), f"{{{answer}}}"
        made: PromptSuggestionDict = {"prompt": prompt, "completion": completion}
        text = prompt + completion
        left = [c["name"] for c in columns if f"{{{c['name']}}}" not in text][:MAX_LEFT_OUT]
        if left:
            made["leftOut"] = left
        return made
    text = _find(TEXTS, usable)
    return _dataset("text", text=text) if text else None


def suggestion_sentence(
    suggestion: PromptSuggestionDict | None, columns: Sequence[ColumnDict], dataset: str
) -> str:
    """Which columns there are, and what to write."""
    names = [column["name"] for column in columns]
    shown = listed(names)
    there = f"spec has no templates. Dataset {dataset} has the columns {shown}: "
    if suggestion is None:
        slot = next((name for name in names if not set(name) & set("{}")), "column")
        return (
            f"{there}their names allow no guess, so write spec.prompt and spec.completion with"
            f" slots such as {{{slot}}}, or spec.messages"
        )
    if "prompt" in suggestion:
        return (
            f"{there}status.suggestion has a guess; copy its prompt and completion into spec, or"
            f" write others{_left_out(suggestion)}"
        )
    if suggestion.get("format") == "unpairedPreference":
        mapped = ", ".join(
            f"{role}: {name}" for role, name in suggestion.get("columns", {}).items()
        )
        also = f" and spec.columns to {mapped}" if mapped else ""
        label = suggestion.get("columns", {}).get("label", "label")
        return (
            f"{there}{label} seems to say which answers are good, and a template would train on"
            " the bad ones as well; set spec.format of the Dataset to unpairedPreference"
            f"{also}, and use objective kto without promptRef, or write a template for rows that"
            " are good alone"
        )
    mapped = ", ".join(f"{role}: {name}" for role, name in suggestion.get("columns", {}).items())
    also = f" and spec.columns to {mapped}" if mapped else ""
    return (
        f"{there}rows need no PromptTemplate; set spec.format of the Dataset to"
        f" {suggestion.get('format')}{also}, and leave promptRef out"
    )


def _left_out(suggestion: PromptSuggestionDict) -> str:
    """What the guess doesn't use, as the end of a sentence."""
    left = suggestion.get("leftOut") or []
    if not left:
        return ""
    grade = next((name for name in left if name.lower() in GRADES), None)
    note = f"; it leaves out {', '.join(left)}: add slots for what the answer needs"
    if grade:
        note += f", and mind that answers with a low {grade} train like all others"
    return note


def _prompt(question: str, columns: Sequence[ColumnDict]) -> str:
    extras = (*EXTRAS, *CONTEXTS) if question.lower() == "instruction" else CONTEXTS
    others = [column for column in columns if column["name"] != question]
    system, extra = _find(SYSTEMS, others), _find(extras, others)
    order = [question, extra] if question.lower() == "instruction" else [extra, question]
    parts = [f"{{{name}}}" for name in (system, *order) if name]
    return "\n\n".join(parts) + "\n"


def _dataset(format: str, **columns: str) -> PromptSuggestionDict:
    """Only what differs from the defaults."""
    mapped = {role: name for role, name in columns.items() if name != role}
    return {"format": format, "columns": mapped} if mapped else {"format": format}


def _find(names: Sequence[str], columns: Sequence[ColumnDict]) -> str | None:
    """The first of the names that a column has, whatever its case."""
    there = {column["name"].lower(): column["name"] for column in reversed(columns)}
    return next((there[name] for name in names if name in there), None)
