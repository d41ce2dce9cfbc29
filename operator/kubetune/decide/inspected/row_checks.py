"""What follows from rows at fault: a condition and, where it is asked for, a refusal.

The inspection only counts, so that another policy needs no other inspection.
"""

from __future__ import annotations

from kubetune.api.conditions import ConditionType, Reason
from kubetune.api.kinds.dataset.spec import CheckPolicy, Checks
from kubetune.api.kinds.status_types import (
    DatasetInspectionDict,
    RowChecksDict,
    SplitRowsDict,
)
from kubetune.decide.decision import Conditions


def judge(
    policies: Checks, found: DatasetInspectionDict | None, conditions: Conditions
) -> tuple[Reason, str] | None:
    """Set ChecksPassed from what an inspection has found; reason and sentence of a refusal.

    Without a finding, or with one from before rows were checked, the condition is removed.
    """
    counts = found.get("checks") if found else None
    if found is None or counts is None:
        conditions.remove(ConditionType.CHECKS_PASSED)
        return None
    faults = [fault for fault in _faults(policies, counts, found["rows"]) if fault[0] != "Ignore"]
    if not faults:
        conditions.set(ConditionType.CHECKS_PASSED, True, Reason.ROWS_CLEAN, _rest(counts, found))
        return None
    refused = [fault for fault in faults if fault[0] == "Refuse"]
    _, reason, _ = (refused or faults)[0]
    sentences = [text for _, _, text in faults]
    message = f"{'; '.join(sentences)}. status.problems names rows"
    conditions.set(ConditionType.CHECKS_PASSED, False, reason, message)
    if not refused:
        return None
    field = _FIELDS[reason]
    way_out = _WAYS_OUT.get(reason, "remove them")
    return reason, f"{refused[0][2]}: {way_out}, or set spec.checks.{field} to Warn"


_FIELDS = {
    Reason.ROWS_LEAKED: "leakage",
    Reason.PROMPTS_LEAKED: "promptLeakage",
    Reason.ROWS_UNUSABLE: "unusable",
    Reason.PARTS_HIDDEN: "hiddenParts",
    Reason.ROWS_DUPLICATED: "duplicates",
}


_WAYS_OUT = {
    Reason.ROWS_UNUSABLE: "correct them",
    Reason.PARTS_HIDDEN: "put them into the text, take them out, or take another model",
}


def _faults(
    policies: Checks, counts: RowChecksDict, rows: SplitRowsDict
) -> list[tuple[CheckPolicy, Reason, str]]:
    """Policy, reason and sentence of each fault; the worst comes first."""
    held_out = rows["evaluation"]
    everything = rows["train"] + held_out
    found: list[tuple[CheckPolicy, Reason, str]] = []
    if count := counts["leakedRows"]:
        text = f"{_of(count, held_out)} held-out rows also train, so results look too good"
        found.append((policies.leakage, Reason.ROWS_LEAKED, text))
    if count := counts["leakedPrompts"]:
        text = f"{_of(count, held_out)} held-out rows have a prompt that trains with another answer"
        found.append((policies.prompt_leakage, Reason.PROMPTS_LEAKED, text))
    if count := counts.get("unusableRows"):
        text = f"{_of(count, everything)} rows don't fit the format and are left out"
        found.append((policies.unusable, Reason.ROWS_UNUSABLE, text))
    if count := counts.get("hiddenPartRows"):
        text = f"{_of(count, everything)} rows have parts that their training text doesn't show"
        found.append((policies.hidden_parts, Reason.PARTS_HIDDEN, text))
    if count := counts["duplicateRows"]:
        text = f"{_of(count, everything)} rows repeat an earlier one of their split"
        found.append((policies.duplicates, Reason.ROWS_DUPLICATED, text))
    return found


def _rest(counts: RowChecksDict, found: DatasetInspectionDict) -> str:
    everything = found["rows"]["train"] + found["rows"]["evaluation"]
    lengths = found.get("lengths")
    unit = lengths.get("unit", "tokens") if lengths else "tokens"
    text = "rows neither repeat nor leak as far as spec.checks asks"
    if count := counts["emptyRows"]:
        text += f"; {_of(count, everything)} rows are empty and left out"
    if count := counts["longRows"]:
        limit = f"{counts['longLimit']:,} {unit}"
        text += f"; {_of(count, everything)} rows are longer than {limit}"
    return text


def _of(count: int, everything: int) -> str:
    share = 100 * count / max(everything, 1)
    return f"{count:,} of {everything:,} ({share:.2g}%)"
