"""What the backend reads of the watches."""

from __future__ import annotations

from typing import Protocol

from kubetune.api import JsonObject


class JobCache(Protocol):
    """What the watches have shown of our Jobs and pods."""

    def jobs(self, owner_uid: str) -> list[JsonObject]:
        """Jobs whose controller is this object, by their word."""
        ...

    def pods(self, job_uid: str) -> list[JsonObject]:
        """Pods whose controller is this Job, by their word."""
        ...

    def live_pods(self, run_key: str) -> list[JsonObject]:
        """Pods labelled with this run key that have not ended, whosever they are."""
        ...

    def loose_jobs(self, run_key: str) -> list[JsonObject]:
        """Jobs labelled with this run key that no kubetune object controls."""
        ...

    def live_pods_of(self, kind: str, namespace: str, name: str) -> list[JsonObject]:
        """Pods that were made for an object and have not ended."""
        ...

    def put(self, body: JsonObject) -> bool:
        """Take in an object that was just created or read, before the watch shows it."""
        ...

    def drop(self, body: JsonObject) -> None:
        """Forget an object that turned out to be gone, and have its owner look again."""
        ...
