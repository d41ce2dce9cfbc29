"""Sentences about runs that are shown in status, alike for all kinds of targets."""

from __future__ import annotations

from kubetune.api.run.redact import without_credentials

MESSAGE_LIMIT = 500


def short(text: str) -> str:
    """One bounded line without credentials: it is shown in status."""
    line = without_credentials(" ".join(text.split()))
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def out_of_memory(what: str) -> str:
    """That a container or run was killed for memory; the job's settings say what helps."""
    return f"The {what} used more memory than spec.resources.memory allows and was killed."
