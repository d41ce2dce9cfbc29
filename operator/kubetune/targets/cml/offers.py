"""What a workspace offers, and what of it a target takes: project, runtime, accelerator.

Pure choices over the listings of a workspace; filters of its API are never trusted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.kinds.compute_target.cml import RuntimeSelection
from kubetune.api.training.settings import Resources
from kubetune.clients.cml_models import AcceleratorNodeLabel, Runtime, RuntimeAddon

PREFERRED_EDITOR = "PBJ Workbench"
PREFERRED_EDITION = "Standard"
UNUSABLE_ADDONS = frozenset({"DISABLED", "DELETED", "FAILED"})


class OfferError(Exception):
    """The workspace doesn't have what the target asks for; the message says what it has."""


@dataclass(frozen=True)
class Offer:
    """What a job is made with."""

    project_id: str
    runtime: str
    accelerator_label_id: str | None = None


def choose_runtime(runtimes: Sequence[Runtime], wanted: RuntimeSelection) -> str:
    """Image identifier of the runtime: the one named, else the newest enabled one that fits.

    Raises OfferError.
    """
    if wanted.identifier is not None:
        found = next(
            (item for item in runtimes if item.image_identifier == wanted.identifier), None
        )
        if found is None:
            raise OfferError(
                f"runtime.identifier {wanted.identifier} is not among the {len(runtimes)} runtimes"
                " of the workspace"
            )
        if _status(found) == "DISABLED":
            raise OfferError(f"runtime.identifier {wanted.identifier} is disabled")
        return wanted.identifier
    fitting = [
        item
        for item in runtimes
        if item.kernel == wanted.kernel
        and wanted.edition in (None, item.edition)
        and wanted.editor in (None, item.editor)
        and wanted.version in (None, item.full_version)
        and item.image_identifier
        and _status(item) != "DISABLED"
    ]
    if not fitting:
        kernels = sorted({item.kernel for item in runtimes} - {""})
        raise OfferError(
            f"no enabled runtime has {_described(wanted)}; kernels of the workspace:"
            f" {', '.join(kernels) or 'none'}"
        )
    return max(fitting, key=_rank).image_identifier


def choose_accelerator(labels: Sequence[AcceleratorNodeLabel], wanted: Resources) -> str | None:
    """Id of the accelerator label that ``gpuLabel`` names; None when it names none.

    Raises OfferError when there is no such label, or more GPUs are wanted than a run gets.
    """
    if not wanted.gpu or not wanted.gpu_label:
        return None
    if len(wanted.gpu_label) > 1:
        raise OfferError(
            f"resources.gpuLabel has {len(wanted.gpu_label)} entries; CML takes one label"
        )
    [(key, value)] = wanted.gpu_label.items()
    found = next(
        (
            label
            for label in labels
            if label.id and (label.label_key, label.label_value) == (key, value)
        ),
        None,
    )
    if found is None:
        known = sorted(f"{item.label_key}: {item.label_value}" for item in labels)
        raise OfferError(
            f"resources.gpuLabel {key}: {value} is no accelerator label of the workspace; it has"
            f" {', '.join(known) or 'none'}"
        )
    most = whole(found.max_gpu_per_workload)
    if most is not None and wanted.gpu > most:
        raise OfferError(
            f"resources.gpu {wanted.gpu} is above the {most} that a run gets of {key}: {value}"
        )
    return found.id


def check_addons(addons: Sequence[RuntimeAddon], wanted: Sequence[str]) -> None:
    """Raises OfferError when an add-on isn't there or can't be used."""
    statuses = {addon.identifier: addon.status.upper() for addon in addons}
    for identifier in wanted:
        if identifier not in statuses:
            known = ", ".join(sorted(statuses.keys() - {""}))
            raise OfferError(
                f"runtimeAddons {identifier} is no add-on of the workspace; it has"
                f" {known or 'none'}"
            )
        if statuses[identifier] in UNUSABLE_ADDONS:
            raise OfferError(
                f"runtimeAddons {identifier} is {statuses[identifier].lower()} in the workspace"
            )


def whole(text: str) -> int | None:
    """A number that the API writes as text; none when it is no number, or below zero."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if number >= 0 else None


def _status(runtime: Runtime) -> str:
    return (runtime.status or "ENABLED").upper().rsplit("_", 1)[-1]


def _rank(runtime: Runtime) -> tuple[Any, ...]:
    return (
        runtime.editor == PREFERRED_EDITOR,
        runtime.edition == PREFERRED_EDITION,
        _status(runtime) == "ENABLED",
        _version(runtime.full_version),
        runtime.image_identifier,
    )


def _version(text: str) -> tuple[tuple[int, int, str], ...]:
    """Parts of a version in an order: numbers by value, words before numbers."""
    parts = re.findall(r"[0-9]{1,18}|[A-Za-z]+", text)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def _described(wanted: RuntimeSelection) -> str:
    given = wanted.to_json()
    return ", ".join(f"{name} {value!r}" for name, value in given.items())
