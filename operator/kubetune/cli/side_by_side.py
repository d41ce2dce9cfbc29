"""Results and answers of several candidates as text, for ``kubetune compare``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from kubetune.api.conditions import Phase
from kubetune.api.kinds.status_types import CandidateStatusDict, EvaluationStatusDict
from kubetune.api.run.evaluation_plan import EvaluatedRow

MIN_WIDTH = 40
INDENT = 2


def verdict(status: EvaluationStatusDict) -> str:
    """Phase and verdict in a line or two."""
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    lines = [str(status.get("phase", Phase.PENDING))]
    for kind in ("Passed", "Promoted"):
        if found := conditions.get(kind):
            lines.append(f"{kind} {found['status']}: {found['message']}")
    if len(lines) == 1 and (ready := conditions.get("Ready")):
        lines[0] += f": {ready['message']}"
    return "\n".join(lines)


def table(status: EvaluationStatusDict) -> str:
    """Metrics by candidate as aligned columns; a star marks the winner."""
    candidates = status.get("candidates") or []
    names = [
        item["name"] + (" *" if item["name"] == status.get("winner") else "") for item in candidates
    ]
    metrics = list(
        dict.fromkeys(metric["name"] for item in candidates for metric in item.get("metrics") or ())
    )
    rows = [["METRIC", *names]]
    for metric in metrics:
        rows.append([metric, *(_cell(item, metric) for item in candidates)])
    if len(rows) == 1:
        rows += [["-", *(item["phase"] for item in candidates)]]
    counts = {
        "rows": [item.get("rows") for item in candidates],
        "left out": [item.get("skipped") for item in candidates],
        "tokens": [item.get("tokens") for item in candidates],
    }
    for label, numbers in counts.items():
        if any(numbers):
            rows.append([label, *("-" if number is None else str(number) for number in numbers)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    errors = [
        f"{item['name']}, {metric['name']}: {problem}"
        for item in candidates
        for metric in item.get("metrics") or ()
        if (problem := metric.get("error"))
    ]
    return "\n".join(lines + (["", *errors] if errors else []))


def samples(
    answers: Mapping[str, Sequence[EvaluatedRow]], metric: str, limit: int | None, width: int
) -> str:
    """The answers of all candidates, row by row; ``answers`` has the rows by candidate."""
    numbers = list(dict.fromkeys(row.row for rows in answers.values() for row in rows))[:limit]
    by_number = {name: {row.row: row for row in rows} for name, rows in answers.items()}
    labels = ["prompt", "reference", *answers]
    indent = max(len(label) for label in labels) + 2 * INDENT
    blocks: list[str] = []
    for number in numbers:
        first = next(rows[number] for rows in by_number.values() if number in rows)
        lines = [f"row {number}"]
        for label, text in (("prompt", first.prompt), ("reference", first.reference)):
            if text is not None:
                lines.append(_labelled(label, text.strip(), indent, width))
        for name, rows in by_number.items():
            row = rows.get(number)
            score = (
                f" ({metric} {row.metrics[metric]:.4g})" if row and metric in row.metrics else ""
            )
            text = row.answer if row and row.answer is not None else "(none)"
            lines.append(_labelled(name, (text.strip() or "(blank)") + score, indent, width))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(candidate: CandidateStatusDict, name: str) -> str:
    item = next((m for m in candidate.get("metrics") or () if m["name"] == name), None)
    if item is None:
        return "-"
    if "value" not in item:
        return "error"
    text = item["value"]
    if "low" in item and "high" in item:
        text += f" [{float(item['low']):.3g}, {float(item['high']):.3g}]"
    return text + (f" {item['delta']}" if "delta" in item else "")


def _labelled(label: str, text: str, indent: int, width: int) -> str:
    """A text of several lines next to its label."""
    room = max(width - indent, MIN_WIDTH)
    lines = [
        part
        for line in _printable(text).splitlines() or [""]
        for part in textwrap.wrap(line, room, drop_whitespace=False) or [""]
    ]
    head = (" " * INDENT + label).ljust(indent)
    return "\n".join((head if at == 0 else " " * indent) + line for at, line in enumerate(lines))


def _printable(text: str) -> str:
    """The text without what would move the cursor: a model may answer anything."""
    return "".join(
        char
        if char.isprintable() or char == "\n"
        else " "
        if char == "\t"
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
