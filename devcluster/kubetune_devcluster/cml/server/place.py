"""What a workspace is to the parts of it that its runs use."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from kubetune_devcluster.cml.server.behaviour import Behaviour
from kubetune_devcluster.cml.server.catalog import Catalog
from kubetune_devcluster.cml.server.clock import Clock
from kubetune_devcluster.cml.server.records import Project, Run


class Place(Protocol):
    """The workspace as its processes and its MLflow stores see it."""

    @property
    def folder(self) -> Path: ...
    @property
    def url(self) -> str: ...
    @property
    def lock(self) -> AbstractContextManager[Any]: ...
    @property
    def behaviour(self) -> Behaviour: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def keys(self) -> set[str]: ...
    @property
    def projects(self) -> Mapping[str, Project]: ...
    @property
    def runs(self) -> Mapping[str, Run]: ...

    def files(self, project_id: str) -> Path:
        """The folder of a project's files."""
        ...

    def settle(self) -> None:
        """Bring all scripted runs up to the clock."""
        ...

    def end(self, run: Run, status: str, moment: float) -> None:
        """Let a run be over."""
        ...
