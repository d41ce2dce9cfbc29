"""The controllers of all kinds, from the parts that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubetune.act.attesting import Attesting
from kubetune.act.holds import Holds
from kubetune.act.left_behind import LeftBehind
from kubetune.act.release import Release
from kubetune.api.kinds.table import RECONCILED
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.controllers.base import Controller
from kubetune.controllers.compute_target import ComputeTargetController
from kubetune.controllers.evaluation import EvaluationController
from kubetune.controllers.fine_tune_job import FineTuneJobController
from kubetune.controllers.inspected import (
    DatasetController,
    ModelController,
    PromptTemplateController,
)
from kubetune.keys import Keyring
from kubetune.observe.cache import ObjectCache
from kubetune.observe.compute_target import TargetObserver
from kubetune.observe.consent import Consents
from kubetune.observe.evaluation import EvaluationObserver
from kubetune.observe.fine_tune_job import FineTuneJobObserver
from kubetune.observe.inspected import InspectedObserver
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key
from kubetune.settings import Settings
from kubetune.targets.dispatch import Backends
from kubetune.tracking.poller import ProgressPoller

Controllers = Mapping[str, Controller[Any, Any]]
"""By kind."""


@dataclass(frozen=True)
class Services:
    """What controllers are made of: one of each in an operator."""

    cache: ObjectCache
    client: KubernetesClient
    consents: Consents
    backend: Backends
    trackers: Trackers
    settings: Settings
    keys: Keyring
    install_id: str
    clock: Callable[[], datetime]


def controllers(
    services: Services,
    poller: ProgressPoller[Key],
    holds: Holds,
    release: Release,
    left_behind: LeftBehind,
) -> Controllers:
    """A controller for each kind that is reconciled. Raises LookupError when one has none."""
    cache, client, backend = services.cache, services.client, services.backend
    consents = services.consents
    trackers, settings = services.trackers, services.settings
    keys, install_id = services.keys, services.install_id
    clock = services.clock
    pace = (settings.progress_write_seconds, settings.retry_seconds)
    inspected = InspectedObserver(cache, consents, backend, keys, install_id)
    made: list[Controller[Any, Any]] = [
        DatasetController(inspected),
        ModelController(inspected),
        PromptTemplateController(inspected),
        FineTuneJobController(
            FineTuneJobObserver(cache, client, consents, backend, keys, install_id, *pace, clock()),
            trackers,
            poller,
            backend,
            keys,
            Attesting(client, settings.operator_namespace, keys),
        ),
        EvaluationController(
            EvaluationObserver(
                cache, client, consents, backend, keys, install_id, *pace, poller.tracked
            ),
            trackers,
            keys,
        ),
        ComputeTargetController(
            TargetObserver(cache, consents, backend, trackers, settings),
            holds,
            release,
            left_behind,
            settings.operator_namespace,
        ),
    ]
    by_kind = {kind: controller for controller in made for kind in controller.kinds}
    if missing := RECONCILED ^ by_kind.keys():
        raise LookupError(f"kinds without a controller, or unknown to the API: {sorted(missing)}")
    return by_kind
