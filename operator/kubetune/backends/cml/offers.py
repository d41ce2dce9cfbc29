"""What a workspace offers, and what of it a target takes: project, runtime, accelerator.

Pure choices over the listings of a workspace; filters of its API are never trusted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.cml_target import RuntimeSelection
from kubetune.api.training import Resources

JsonObject = dict[str, Any]

PREFERRED_EDITOR = "PBJ Workbench"
PREFERRED_EDITION = "Standard"


class OfferError(Exception):
    """The workspace doesn't have what the target asks for; the message says what it has."""


@dataclass(frozen=True)
class Offer:
    """What a job is made with."""

    project_id: str
    runtime: str
    accelerator_label_id: str | None = None


def choose_runtime(runtimes: Sequence[JsonObject], wanted: RuntimeSelection) -> str:
    """Image identifier of the runtime: the one named, else the newest enabled one that fits.

    Raises OfferError.
    """
    if wanted.identifier is not None:
        found = next(
            (item for item in runtimes if item.get("image_identifier") == wanted.identifier), None
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
        if item.get("kernel") == wanted.kernel
        and wanted.edition in (None, item.get("edition"))
        and wanted.editor in (None, item.get("editor"))
        and wanted.version in (None, item.get("full_version"))
        and _status(item) != "DISABLED"
    ]
    if not fitting:
        kernels = sorted({str(item.get("kernel")) for item in runtimes})
        raise OfferError(
            f"no enabled runtime has {_described(wanted)}; kernels of the workspace:"
            f" {', '.join(kernels) or 'none'}"
        )
    return str(max(fitting, key=_rank)["image_identifier"])


def choose_accelerator(labels: Sequence[JsonObject], wanted: Resources) -> str | None:
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
            if label.get("label_key") == key and label.get("label_value") == value
        ),
        None,
    )
    if found is None:
        known = sorted(f"{item.get('label_key')}: {item.get('label_value')}" for item in labels)
        raise OfferError(
            f"resources.gpuLabel {key}: {value} is no accelerator label of the workspace; it has"
            f" {', '.join(known) or 'none'}"
        )
    most = whole(found.get("max_gpu_per_workload"))
    if most is not None and wanted.gpu > most:
        raise OfferError(
            f"resources.gpu {wanted.gpu} is above the {most} that a run gets of {key}: {value}"
        )
    return str(found["id"])


def whole(text: object) -> int | None:
    """A number that the API writes as text."""
    try:
        return int(str(text))
    except ValueError:
        return None


def _status(runtime: JsonObject) -> str:
    return str(runtime.get("status") or "ENABLED").upper().rsplit("_", 1)[-1]


def _rank(runtime: JsonObject) -> tuple[Any, ...]:
    return (
        runtime.get("editor") == PREFERRED_EDITOR,
        runtime.get("edition") == PREFERRED_EDITION,
        _status(runtime) == "ENABLED",
        _version(str(runtime.get("full_version") or "")),
        str(runtime.get("image_identifier")),
    )


def _version(text: str) -> tuple[tuple[int, int, str], ...]:
    """Parts of a version in an order: numbers by value, words before numbers."""
    parts = re.findall(r"\d+|[A-Za-z]+", text)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def _described(wanted: RuntimeSelection) -> str:
    given = wanted.to_json()
    return ", ".join(f"{name} {value!r}" for name, value in given.items())
