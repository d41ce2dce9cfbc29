"""A request as the operations see it, and what they answer besides JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubetune_devcluster.cml.server.contract import Operation
from kubetune_devcluster.cml.server.listing import Rows, page
from kubetune_devcluster.cml.server.workspace import Workspace


@dataclass(frozen=True)
class Part:
    """A part of an upload."""

    key: str
    filename: str
    content: bytes


@dataclass(frozen=True)
class Call:
    """A checked request."""

    workspace: Workspace
    operation: Operation
    path: dict[str, str]
    query: dict[str, str]
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    parts: tuple[Part, ...] = ()

    @property
    def project_id(self) -> str:
        """The project of the path."""
        return self.path["project_id"]

    def page(self, rows: Rows, name: str) -> dict[str, Any]:
        """One page of rows (oldest first) in the field ``name``."""
        return page(rows, name, self.operation, self.query, self.workspace.behaviour)


@dataclass(frozen=True)
class Download:
    """An answer that is a file."""

    content: bytes


Answer = dict[str, Any] | Download
