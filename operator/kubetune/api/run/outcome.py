"""What a run leaves behind: exit codes and one small JSON document.

On Kubernetes the document is the container's termination message, so it holds at most
4,096 bytes; what doesn't fit is an artifact of the run.
"""

from __future__ import annotations

import base64
import json
import zlib
from enum import IntEnum
from typing import Literal

from pydantic import Field, JsonValue

from kubetune.api.bounded import OUTCOME, LimitError, decoded, inflated, json_value
from kubetune.api.kinds.status import MAX_LOG_BYTES
from kubetune.api.schema.base import Value

MESSAGE_LIMIT_BYTES = 4096
MAX_LOG_LINES = 20
WORKER_LOST = "WorkerLost"
"""Reason of a run that ends because another worker has ended."""
OUTCOME_REFUSED = "OutcomeRefused"
"""Reason of a run that has left an outcome over the limits of what is read."""
_COMPRESSED = "zlib:"


class ExitCode(IntEnum):
    """Exit codes of the runner."""

    SUCCEEDED = 0
    FAILED = 1
    """Failed; another attempt may succeed."""
    REFUSED = 64
    """The input or the plan is at fault; another attempt would fail alike."""
    INTERRUPTED = 75
    """Stopped by a signal after saving what could be saved."""


def last_lines(text: str, lines: int = MAX_LOG_LINES, limit: int = MAX_LOG_BYTES) -> str:
    """The end of a text: so many lines of so many bytes; a longer last line keeps its own end."""
    kept: list[str] = []
    room = limit
    for line in reversed(text.rstrip().split("\n")[-lines:]):
        size = len(line.encode(errors="replace")) + 1
        if size > room:
            if not kept:
                kept.append(line.encode(errors="replace")[-limit + 1 :].decode(errors="ignore"))
            break
        kept.append(line)
        room -= size
    return "\n".join(reversed(kept))


class Outcome(Value):
    """How a run ended and what it found."""

    status: Literal["succeeded", "failed", "interrupted"]
    reason: str = Field(max_length=64)
    """CamelCase, such as Trained, DatasetChanged, OutOfMemory."""
    message: str = Field(default="", max_length=1024)
    """A sentence for the user, with the way out."""
    retryable: bool = False
    log: str = ""
    """The last lines that a failed run has printed, at most MAX_LOG_LINES and MAX_LOG_BYTES."""
    exit_code: int | None = Field(default=None, exclude=True)
    """Of the process that leaves it, where it isn't the status' own; it isn't in the document."""
    summary: dict[str, JsonValue] = Field(default_factory=dict)
    """Training: metrics, modelId, runId, steps. Inspection: the fields of its result."""

    def to_message(self) -> str:
        """The document as text of at most MESSAGE_LIMIT_BYTES, compressed when needed.

        Raises ValueError when even the compressed form is longer: drop parts of the summary.
        """
        text = json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) <= MESSAGE_LIMIT_BYTES:
            return text
        packed = _COMPRESSED + base64.b85encode(zlib.compress(text.encode(), 9)).decode()
        if len(packed) > MESSAGE_LIMIT_BYTES:
            raise ValueError(
                f"outcome has {len(packed)} bytes, more than the {MESSAGE_LIMIT_BYTES} of a"
                " termination message"
            )
        return packed

    @staticmethod
    def from_message(text: str | None) -> Outcome | None:
        """Read a termination message; None when it isn't an outcome.

        One that is too large to be read is a failure of the run that has left it.
        """
        if not text:
            return None
        try:
            data = text.encode(errors="surrogatepass")
            if text.startswith(_COMPRESSED):
                packed = decoded(text[len(_COMPRESSED) :], OUTCOME, base64.b85decode)
                data = inflated(packed, OUTCOME)
            outcome = Outcome.model_validate(json_value(data, OUTCOME), extra="ignore")
        except LimitError as error:
            return Outcome(
                status="failed",
                reason=OUTCOME_REFUSED,
                message=f"The outcome that the run has left is refused: {error}.",
            )
        except ValueError:
            return None
        return outcome.model_copy(update={"log": last_lines(outcome.log)})
