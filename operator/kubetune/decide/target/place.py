"""Where runs were started: what a status records of a target, and what it means later.

A run is followed, stopped and deleted where it was started, whatever has become of the target
since. Only how to get there may be newer: of a target that still leads to the same place the
present Secret counts, so that a key can be replaced while there are runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from kubetune.api import JsonObject
from kubetune.api.conditions import Phase
from kubetune.api.kinds.compute_target.block import RecordedBlock, TargetBlock
from kubetune.api.kinds.compute_target.recorded import RecordedTracking
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec, Tracking
from kubetune.api.kinds.status_types import ExternalDict
from kubetune.api.schema.base import Value
from kubetune.decide.decision import Action, DeleteRuns, Record
from kubetune.decide.resources import Target
from kubetune.targets.table import FACTS, facts_of, recorded_facts

FIELDS = frozenset({"target", "type", "tracking"})
"""Fields of every record, besides the block of its type; status.external has others too."""


@dataclass(frozen=True)
class Known:
    """A record that was read."""

    type: str
    block: RecordedBlock | None
    tracking: RecordedTracking


def record(target: Target, namespace: str) -> ExternalDict:
    """What a status keeps of a target before the first run of ``namespace`` is started there."""
    spec = target.spec
    if spec is None:
        raise ValueError("a run needs a target")
    tracking = _chosen(spec.tracking, RecordedTracking)
    # Any, here and below, since the type of a target names its block.
    recorded: Any = {
        "target": target.label,
        "type": spec.type,
        "tracking": tracking | {"experiment": spec.tracking.experiment_in(namespace)},
    }
    model = facts_of(spec).recorded
    if model is not None and spec.block is not None:
        recorded[spec.type] = _chosen(spec.block, model)
    return recorded


def recorded_in(external: Mapping[str, Any]) -> ExternalDict:
    """The record alone, without what else stands in status.external."""
    kept: Any = {key: value for key, value in external.items() if key in FIELDS or key in FACTS}
    return kept


def place_of(
    external: Mapping[str, Any], present: ComputeTargetSpec | None
) -> ComputeTargetSpec | None:
    """The target as following its runs takes it; None when none is recorded.

    ``present`` is the recorded target as it is now, if it is there.
    """
    if "type" not in external:
        return None
    known = _known(to_json(recorded_in(external)))
    if known is None:
        return None
    block: dict[str, Any] = {}
    if known.block is not None:
        block[known.type] = _block(known.block, external, present)
    # Without what only new runs need: images, resources, a runtime.
    return ComputeTargetSpec.model_construct(**block, tracking=_tracking(known.tracking, present))


@lru_cache(maxsize=1024)
def _known(text: bytes) -> Known | None:
    """A record as text; None when it was written by hand and leads nowhere."""
    record = from_json(text)
    model = recorded_facts(record).recorded
    if record["type"] not in FACTS or record.keys() - FIELDS != (
        {record["type"]} if model else set()
    ):
        return None
    try:
        tracking = RecordedTracking.model_validate(record.get("tracking"), extra="ignore")
        block = model.model_validate(record[record["type"]], extra="ignore") if model else None
    except ValidationError:
        return None
    return Known(record["type"], block, tracking)


def before_start(
    external: Mapping[str, Any],
    started: ComputeTargetSpec | None,
    target: Target,
    namespace: str,
    run_keys: Sequence[str],
    phase: Phase | None,
) -> tuple[ExternalDict, list[Action]]:
    """The record for a run that is about to start on the target, and what must be done before.

    ``run_keys`` are those of runs that have ended where ``started`` says: they leave nothing
    behind when the new one is elsewhere. ``phase`` is the one that was written last.
    """
    actions: list[Action] = []
    wanted, known = record(target, namespace), recorded_in(external)
    kept: Any = dict(external)
    if started and target.spec and not same_place(started, target.spec):
        actions += [
            DeleteRuns(run_key, settled=True, elsewhere=started, needed=False)
            for run_key in run_keys
        ]
        kept = known
    if known != wanted:
        kept = {key: value for key, value in kept.items() if key not in known} | wanted
        actions.append(Record("external", kept))
    if phase == Phase.SUSPENDED and recorded_facts(wanted).needs_access:
        # While it says so nothing is held that a run can't be reached without.
        actions.append(Record("phase", Phase.QUEUED))
    return kept, actions


def has_moved(started: ComputeTargetSpec, target: ComputeTargetSpec, namespace: str) -> bool:
    """Whether a run that is started on the target now is elsewhere than the recorded ones."""
    before, now = started.tracking, target.tracking
    return (
        not same_place(started, target)
        or (before.type, before.uri) != (now.type, now.uri)
        or before.experiment_in(namespace) != now.experiment_in(namespace)
    )


def moved_from(started: ComputeTargetSpec | None, target: Target, namespace: str) -> str:
    """A sentence where what waits at ``started`` would get the plan of another place; else empty.

    The target was changed, or made again as another one.
    """
    if started is None or target.spec is None or not has_moved(started, target.spec, namespace):
        return ""
    return f"{target.label} leads elsewhere by now: suspend it and resume it, to start there"


def same_place(one: ComputeTargetSpec, other: ComputeTargetSpec) -> bool:
    """Whether two targets are of the same type and, outside of the cluster, the same place."""
    return (one.type, one.address) == (other.type, other.address)


def _chosen(spec: Value, recorded: type[Value]) -> JsonObject:
    """The fields of a part of a target that are recorded."""
    names = {field.alias for field in recorded.model_fields.values()}
    return {key: value for key, value in spec.to_json().items() if key in names}


def _block(
    known: RecordedBlock, external: Mapping[str, Any], present: ComputeTargetSpec | None
) -> TargetBlock:
    """The present block while it leads to the same place, else what is recorded of it."""
    if present and present.block and present.address == known.address:
        return present.block
    return known.as_block(external)


def _tracking(known: RecordedTracking, present: ComputeTargetSpec | None) -> Tracking:
    now = present.tracking if present else None
    same = now is not None and (now.type, now.uri) == (known.type, known.uri)
    access = now if now is not None and same else known
    return Tracking.model_construct(
        type=known.type,
        uri=known.uri,
        external_uri=access.external_uri,
        experiment=known.experiment,
        credentials_secret_ref=access.credentials_secret_ref,
        ca_bundle=access.ca_bundle,
        # Whether a name is shared is the present admin's to say.
        registry=now.registry if now is not None and same else None,
    )
