"""What the server keeps: projects, jobs and runs, and how the API shows them."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubetune_devcluster.cml.server.clock import text
from kubetune_devcluster.cml.server.scripts import Script
from kubetune_devcluster.cml.server.statuses import SCHEDULING

USER = {"username": "trainer", "name": "Model Trainer", "email": "trainer@example.com"}

_LETTERS = string.ascii_lowercase + string.digits


def new_id() -> str:
    """An identifier of projects, jobs and runs: four groups of four."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(4))


@dataclass
class Project:
    """A project; its files are a folder on disk."""

    id: str
    name: str
    created: float
    description: str = ""
    visibility: str = "private"
    environment: dict[str, str] = field(default_factory=dict[str, str])
    shared_memory_limit: int = 64

    def shown(self) -> dict[str, Any]:
        """As the API answers."""
        return {
            "id": self.id,
            "name": self.name,
            "owner": USER,
            "creator": USER,
            "description": self.description,
            "visibility": self.visibility,
            "default_engine_type": "ml_runtime",
            "created_at": text(self.created),
            "updated_at": text(self.created),
            "creation_status": "success",
            "permissions": {
                "read": True,
                "write": True,
                "admin": True,
                "business_user": False,
                "operator": False,
                "inherit": False,
            },
            "shared_memory_limit": self.shared_memory_limit,
            "environment": json.dumps(self.environment),
            "ephemeral_storage_request": 0,
            "ephemeral_storage_limit": 10,
        }

    def short(self) -> dict[str, Any]:
        """As a part of other objects."""
        return {
            "public_identifier": self.id,
            "name": self.name,
            "default_project_engine": "ml_runtime",
            "slug": f"{USER['username']}/{self.name.lower().replace(' ', '-')}",
        }


@dataclass
class Job:
    """A job. ``settings`` holds the plain fields by their API names."""

    id: str
    project_id: str
    created: float
    updated: float
    settings: dict[str, Any]
    environment: dict[str, str]
    number: int = 0
    """How many were made before it."""
    deleted: float | None = None

    @property
    def name(self) -> str:
        """Its display name; several jobs may share it."""
        return self.settings["name"]

    @property
    def timeout(self) -> int:
        """Seconds that a run may take; 0 for no limit."""
        return int(self.settings.get("timeout") or 0)

    def shown(self, project: Project) -> dict[str, Any]:
        """As the API answers."""
        settings = self.settings
        kind = "manual"
        if settings.get("schedule"):
            kind = "cron"
        elif settings.get("parent_id"):
            kind = "dependent"
        return {
            "id": self.id,
            "name": self.name,
            "script": settings["script"],
            "cpu": settings.get("cpu", 1),
            "memory": settings.get("memory", 1),
            "nvidia_gpu": settings.get("nvidia_gpu", 0),
            "arguments": settings.get("arguments", ""),
            "environment": json.dumps(self.environment),
            "kernel": settings.get("kernel", ""),
            "type": kind,
            "schedule": settings.get("schedule", ""),
            "english_schedule": "",
            "parent_id": settings.get("parent_id", ""),
            "paused": settings.get("paused", False),
            "timeout": str(self.timeout),
            "timezone": settings.get("timezone", "America/Los_Angeles"),
            "kill_on_timeout": settings.get("kill_on_timeout", False),
            "runtime_identifier": settings["runtime_identifier"],
            "runtime_addon_identifiers": settings.get("runtime_addon_identifiers", []),
            "engine_image_id": "0",
            "accelerator_label_id": settings.get("accelerator_label_id", "0"),
            "project": project.short(),
            "owner": USER,
            "creator": USER,
            "run_as": settings.get("run_as", 0),
            # No two were made in one moment, also where the clock stands still.
            "created_at": text(self.created + self.number / 1000),
            "updated_at": text(self.updated),
        }


@dataclass
class Run:
    """A job's run: a snapshot of the job, and what became of it."""

    id: str
    project_id: str
    job_id: str
    job_name: str
    created: float
    settings: dict[str, Any]
    arguments: str
    environment: dict[str, str]
    status: str = SCHEDULING
    scheduling: float | None = None
    starting: float | None = None
    running: float | None = None
    finished: float | None = None
    stop_asked: float | None = None
    script: Script | None = None
    held: bool = False
    """A person set the status; it stays until the run ends."""
    key: str = ""
    """The API key that its workload gets."""
    exit_code: int = 0
    exit_signal: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What its row in the usage list has besides the usual."""

    @property
    def active(self) -> bool:
        """Whether it may still do something."""
        return self.finished is None

    def shown(self, status: str) -> dict[str, Any]:
        """As the API answers."""
        settings = self.settings
        return {
            "id": self.id,
            "project_id": self.project_id,
            "job_id": self.job_id,
            "status": status,
            "created_at": text(self.created),
            "scheduling_at": text(self.scheduling),
            "starting_at": text(self.starting),
            "running_at": text(self.running),
            "finished_at": text(self.finished),
            "kernel": settings.get("kernel", ""),
            "cpu": settings.get("cpu", 1),
            "memory": settings.get("memory", 1),
            "nvidia_gpu": settings.get("nvidia_gpu", 0),
            "arguments": self.arguments,
            "environment": json.dumps(self.environment),
            "creator": USER,
            "runtime_identifier": settings["runtime_identifier"],
        }


@dataclass
class Served:
    """A model, build or deployment; ``fields`` are shown as they are."""

    id: str
    kind: str
    parents: tuple[str, ...]
    created: float
    fields: dict[str, Any]
    stopped: float | None = None
    started: float = 0.0
