"""What asking a tracker has come to, whatever it was asked."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.conditions import Reason


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whether the tracker answered, and why not."""

    tracking_error: str = ""
    """A sentence when the tracker could not be asked, else empty."""
    tracking_reason: Reason = Reason.TRACKING_UNREACHABLE
    """What a condition says of the error."""

    @property
    def tracking_refused(self) -> str:
        """The error, when no further try can change it; else empty."""
        refused = self.tracking_reason == Reason.TRACKING_REFUSED
        return self.tracking_error if refused else ""
