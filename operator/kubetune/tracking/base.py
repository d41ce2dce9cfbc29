"""The contract of a tracker: an experiment tracking server with a model registry.

Calls are coroutines with short timeouts and one quick retry at most; they raise TrackingError and
never block the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason


class TrackingError(Exception):
    """The server refused or could not be reached."""

    def __init__(
        self,
        message: str,
        *,
        credentials: bool = False,
        missing: bool = False,
        refused: bool = False,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message)
        self.credentials = credentials
        """The server answered 401 or 403."""
        self.missing = missing
        """What was asked for doesn't exist."""
        self.refused = refused
        """The server's own word, which stays the same however often it is asked."""
        self._reason = reason

    @property
    def away(self) -> Reason:
        """What a condition says of a server that can't be read, whatever was asked."""
        refused = self._reason in (Reason.ANSWER_REFUSED, Reason.EGRESS_REFUSED)
        return self._reason if self._reason and refused else Reason.TRACKING_UNREACHABLE

    @property
    def reason(self) -> Reason:
        """What a condition says of it."""
        if self._reason is not None:
            return self._reason
        if self.credentials:
            return Reason.TRACKING_CREDENTIALS
        return Reason.TRACKING_REFUSED if self.refused else Reason.TRACKING_UNREACHABLE


@dataclass(frozen=True)
class TrackedRun:
    """A run as the tracking server shows it."""

    run_key: str
    experiment_id: str
    run_id: str
    status: str
    """MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Newest value per metric."""
    updated_ms: int = 0
    """Newest timestamp of any metric, milliseconds since the epoch."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry."""

    name: str
    version: int
    run_id: str
    source: str
    """As in Registration, or an address that the server gives."""
    status: str
    """PENDING_REGISTRATION, READY or FAILED_REGISTRATION."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    aliases: Sequence[str] = ()


VersionTest = Callable[[RegisteredVersion], bool]
"""Whether a version that was found is to be believed."""
RunTest = Callable[[TrackedRun], bool]


@dataclass(frozen=True)
class Registration:
    """What to register: one version for one run, whoever asks and how often."""

    name: str
    alias: str | None
    """Moved to the version where the registry has aliases."""
    experiment_id: str
    """Empty when it isn't known."""
    run_id: str
    source: str
    """``models:/<model id>``, a logged model, or ``runs:/<run id>/<path>``, artifacts of a run."""
    tags: dict[str, str]
    statement: JsonObject | None = None
    """What the version was made of, for everybody to check; name and number are added to it."""


@dataclass(frozen=True)
class AliasMove:
    """An alias that is to move, if it still stands where it stood."""

    name: str
    alias: str
    version: int
    expected: int | None
    """The version that must have the alias beforehand; None: no version."""
    tag: str
    """Key of the version's tag that keeps the move on record."""
    note: str
    """Value of that tag."""
    holder: int | None = None
    """The version that has the alias afterwards; another one than ``version``: it did not move."""


@dataclass(frozen=True)
class StorageCheck:
    """Whether artifacts can be written."""

    writable: bool | None
    """None: artifacts don't go through the server, so only runs can tell."""
    message: str


class Tracker(Protocol):
    """One tracking server with one set of credentials."""

    async def server_version(self) -> str:
        """Version of the server; also proves that it answers and accepts the credentials."""
        ...

    async def check_storage(self) -> StorageCheck:
        """Write, read and delete one small artifact."""
        ...

    async def running(self, install_id: str, experiments: Sequence[str]) -> list[TrackedRun]:
        """Runs of this installation that are RUNNING in the experiments (by name), batched."""
        ...

    async def find_run(self, run_key: str, experiment: str) -> TrackedRun | None:
        """The run of a key, in any state."""
        ...

    async def claim(self, name: str, namespace: str, *, make: bool) -> None:
        """Have a registered model belong to a namespace, the first that registers a version.

        One that isn't there is made if ``make``. Raises TrackingError, refused, when it belongs to
        another namespace. Registries without tags of models give names to nobody.
        """
        ...

    async def name_owner(self, name: str) -> str:
        """The namespace that a registered model belongs to; empty where it is nobody's."""
        ...

    async def find_identical(
        self, name: str, lineage_digest: str, believed: VersionTest
    ) -> RegisteredVersion | None:
        """The newest READY version with this lineage tag that is believed."""
        ...

    async def register(self, registration: Registration) -> RegisteredVersion:
        """The version made from the run: found or created, tagged, and alias moved to it."""
        ...

    async def tag_version(
        self, version: RegisteredVersion, experiment_id: str, tags: Mapping[str, str]
    ) -> None:
        """Set tags of a version; ``experiment_id`` is that of its run."""
        ...

    async def tag_run(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        ...

    async def find_evaluation(
        self, digest: str, experiment: str, believed: RunTest
    ) -> TrackedRun | None:
        """The newest complete run of an evaluation with this digest that is believed."""
        ...

    async def alias_holder(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version that has the alias; None when none has it, or no model has the name."""
        ...

    async def move_alias(self, move: AliasMove) -> AliasMove:
        """Move the alias unless another version than the expected one has it; with ``holder``.

        Repeatable: a move that was made before is found.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
