"""Asks which namespaces the registered models belong to that a run would read."""

from __future__ import annotations

from kubetune.api.conditions import Reason
from kubetune.decide.consent import Lacking
from kubetune.decide.registry import names_read, not_shared
from kubetune.observe.trackers import Trackers
from kubetune.targets.values import RunRequest


class RegisteredNames:
    """What a run may read of the registry of its target's tracking server.

    It is asked for each run: names that two targets share are not the same on two servers.
    """

    def __init__(self, trackers: Trackers) -> None:
        self._trackers = trackers

    async def lacking(self, request: RunRequest) -> Lacking | None:
        """The first that is another namespace's, and that nobody shares; None when all are fine.

        Raises TrackingError when the server doesn't say.
        """
        tracking, namespace = request.target.tracking, request.owner.namespace
        try:
            read = names_read(request.plan)
        except ValueError as error:
            return Lacking(Reason.INPUTS_REFUSED, str(error))
        names = [name for name in read if not tracking.shares(name)]
        if not names:
            return None
        tracker = (await self._trackers.of(request.target, namespace)).tracker
        for name in names:
            owner = await tracker.name_owner(name)
            if problem := not_shared(name, owner, namespace, tracking):
                return problem
        return None
