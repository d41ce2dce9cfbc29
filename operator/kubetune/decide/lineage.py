"""The lineage digest: equal digests mean that training again would give the same result.

It covers data, split, base revision, prompt, effective settings, code version and world size,
but neither target nor placement.
"""

from __future__ import annotations

import json

from kubetune import __version__
from kubetune.api.kinds.status_types import LineageDict
from kubetune.api.run.plan import DatasetPlan, ModelPlan, PromptPlan
from kubetune.api.run.training_plan import TrainingPlan
from kubetune.api.training.settings import Strategy
from kubetune.names import digest


def lineage(
    model: ModelPlan,
    dataset: DatasetPlan,
    prompt: PromptPlan | None,
    training: TrainingPlan,
    *,
    processes: int = 1,
    strategy: Strategy | None = None,
    unique: str | None = None,
    held_out: int | None = None,
) -> tuple[LineageDict, str]:
    """status.lineage of a job, and its digest over everything else.

    ``processes`` are all that train together. ``unique`` makes a digest that no other job has,
    where what trains isn't known; ``held_out`` is how many rows are held out, as far as that is
    known.
    """
    settings = training.to_json()
    # Where checkpoints lie, how often they are written, and what counts as hung changes nothing in
    # the result.
    del settings["checkpoint"]
    # What is computed again is the same.
    settings["hyperparameters"].pop("gradientCheckpointing", None)
    settings.pop("progressDeadlineSeconds", None)
    # Younger than the first digests: these count where they are set, so that those stay valid.
    if settings["longRows"] == "truncate":
        del settings["longRows"]
    most = settings["evaluation"].get("maxLossRows")
    if most is not None and held_out is not None and held_out <= most:
        # The loss is of all rows, as it was before there was a limit.
        del settings["evaluation"]["maxLossRows"]
    if strategy == "fsdp2":
        settings["strategy"] = strategy
    # What pads is masked, and the model's own template is part of its revision.
    tokenizer = settings.pop("tokenizer", {})
    if "chatTemplate" in tokenizer:
        settings["chatTemplate"] = tokenizer["chatTemplate"]
    lora = settings.get("lora") or {}
    for name in ("useDora", "modulesToSave"):
        if not lora.get(name):
            lora.pop(name, None)
    config = digest(
        json.dumps(
            [
                settings,
                prompt.to_json() if prompt else None,
                dataset.format,
                dataset.columns.to_json(),
                *([unique] if unique else []),
            ],
            sort_keys=True,
        )
    )
    parts: LineageDict = {
        "datasetDigest": dataset.digest or "",
        "splitDigest": dataset.split_digest or "",
        "modelRevision": model_identity(model),
        "configDigest": f"sha256:{config}",
        "codeVersion": __version__,
        "worldSize": processes,
    }
    whole = f"sha256:{digest(json.dumps(parts, sort_keys=True))}"
    return parts | {"digest": whole}, whole


def changed_parts(now: LineageDict, before: LineageDict) -> list[str]:
    """What a run would be made of that differs from what one was made of."""
    compared = {
        "datasetDigest": (now.get("datasetDigest"), before.get("datasetDigest")),
        "splitDigest": (now.get("splitDigest"), before.get("splitDigest")),
        "modelRevision": (now.get("modelRevision"), before.get("modelRevision")),
        "configDigest": (now.get("configDigest"), before.get("configDigest")),
        "worldSize": (now.get("worldSize"), before.get("worldSize")),
    }
    return [name for name, (new, old) in compared.items() if new != old]


def model_identity(model: ModelPlan) -> str:
    """What the weights are: a number alone would be the same for every registered model."""
    own = model.registry_uri or model.revision or ""
    if model.files_digest:
        # A name and a number may be given anew.
        own += f"@{model.files_digest}"
    return f"{own}+{model_identity(model.base)}" if model.base else own
