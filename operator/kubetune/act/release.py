"""Lets a compute target go, and what is held for its users."""

from __future__ import annotations

import logging
from typing import Any

from kubetune.act.holds import Holds, users_namespaces
from kubetune.decide.resources import Resource
from kubetune.observe.needs import named_by
from kubetune.observe.objects import key_of_resource
from kubetune.queue import Key

logger = logging.getLogger(__name__)


class Release:
    """Takes finalizers of targets, Secrets and certificates away."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds
        self._looked_through: set[Key] = set()

    async def target(self, target: Resource[Any, Any], *, forced: bool) -> None:
        """Hold a target, and what it names, no longer; ``forced`` also what others need."""
        key = key_of_resource(target)
        spaces = {key.namespace} if key.namespace else users_namespaces(target.annotations)
        named: set[Key] = set()
        if target.spec is not None:
            for namespace in spaces:
                named |= named_by(target.spec, namespace)
        if users := self._holds.users(key):
            logger.warning("%s %s/%s: let go by force; runs may be left behind of %s", *key, users)
            named |= self._holds.needed_by(users) if forced else set()
        # Itself last: who repeats this after a crash finds the others by it.
        await self._holds.release([*sorted(named - {key}), key], forced=forced)

    async def unused(self, target: Resource[Any, Any]) -> None:
        """Let Secrets go that a cluster-wide target holds for who went while nobody looked."""
        key = key_of_resource(target)
        if key.namespace or key in self._looked_through or target.spec is None:
            return
        users = {user.namespace for user in self._holds.users(key)}
        unused: set[Key] = set()
        for namespace in users_namespaces(target.annotations) - users:
            unused |= named_by(target.spec, namespace)
        await self._holds.release(sorted(unused), forced=False)
        self._looked_through.add(key)
