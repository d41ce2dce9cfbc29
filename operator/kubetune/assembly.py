"""Puts together what reconciles, from the parts that reach the outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kubetune.act.effects import Effects
from kubetune.act.gone_owners import GoneOwners
from kubetune.act.left_behind import LeftBehind
from kubetune.act.needs import Needs
from kubetune.act.release import Release
from kubetune.act.status import StatusWriter
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.controllers import Services, controllers
from kubetune.keys import Keyring
from kubetune.observe.cache import ObjectCache
from kubetune.observe.consent import Consents
from kubetune.observe.following import FollowedRuns
from kubetune.observe.registered_names import RegisteredNames
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key, WorkQueue
from kubetune.reconciler import Reconciler
from kubetune.settings import Settings
from kubetune.targets.dispatch import Backends
from kubetune.tracking.poller import ProgressPoller


@dataclass(frozen=True, slots=True)
class Assembly:
    """What an operator runs."""

    reconciler: Reconciler
    needs: Needs
    poller: ProgressPoller[Key]
    backend: Backends


def utc_now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


def assemble(
    cache: ObjectCache,
    client: KubernetesClient,
    backend: Backends,
    trackers: Trackers,
    queue: WorkQueue,
    settings: Settings,
    keys: Keyring,
    install_id: str,
    clock: Callable[[], datetime] = utc_now,
) -> Assembly:
    """One of each part; nothing runs yet.

    To be called once the lease is held: what another operator has sent just before may still take
    effect, and how long that may take counts from here, not from the start of a process that has
    waited for days.
    """
    needs, consents = Needs(cache, client, queue), Consents(client)
    release = Release(needs.holds)
    left_behind = LeftBehind(
        cache, client, backend, keys, install_id, settings.settle_seconds, clock
    )
    poller: ProgressPoller[Key] = ProgressPoller(
        install_id, settings.tracking_poll_seconds, queue.add
    )
    services = Services(
        cache, client, consents, backend, trackers, settings, keys, install_id, clock
    )
    reconciler = Reconciler(
        cache,
        client,
        queue,
        controllers(services, poller, needs.holds, release, left_behind),
        Effects(
            cache,
            client,
            consents,
            RegisteredNames(trackers),
            backend,
            needs.holds,
            release,
            left_behind,
        ),
        StatusWriter(cache, client, queue),
        needs,
        FollowedRuns(trackers, poller),
        GoneOwners(backend, queue),
        clock,
    )
    return Assembly(reconciler, needs, poller, backend)
