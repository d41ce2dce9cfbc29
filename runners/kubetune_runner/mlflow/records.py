"""What MLflow keeps of a run besides its metrics: settings, data, environment."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeVar

from kubetune.api.run.plan import (
    PARAMETER_PREFIX,
    TAG_ACCUMULATION,
    TAG_BATCH,
    BatchPlan,
    DatasetPlan,
    RunPlan,
)

from kubetune_runner.data.sources import given
from kubetune_runner.model import loading

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "mlflow")
OPTIONAL_PACKAGES = ("bitsandbytes",)

T = TypeVar("T")


def parameters(plan: RunPlan) -> dict[str, Any]:
    """The plan's settings, flat, as MLflow parameters under a prefix of ours."""
    training = plan.training.to_json()
    training.pop("checkpoint", None)
    # A parameter holds 6,000 characters; the text is in plan.json.
    training.get("script", {}).pop("text", None)
    training.pop("axolotl", None)

    def flat(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                k: v
                for key, item in value.items()
                for k, v in flat(f"{prefix}{key}.", item).items()
            }
        return {prefix.rstrip("."): value}

    revision = loading.reference(plan.model)[1]
    return prefixed(
        {
            **flat("", training),
            "model": loading.shown(plan.model),
            "model.revision": plan.model.revision or revision or "",
            "dataset": plan.dataset.name,
            "dataset.digest": plan.dataset.digest or "",
            "dataset.source": plan.dataset.source or "",
            "dataset.splitDigest": plan.dataset.split_digest or "",
        }
    )


def batch_tags(batch: BatchPlan) -> dict[str, str]:
    """What an attempt trains with instead of what the parameters say."""
    return {
        TAG_BATCH: str(batch.per_device_batch_size),
        TAG_ACCUMULATION: str(batch.gradient_accumulation_steps),
    }


def plan_document(plan: RunPlan) -> dict[str, Any]:
    """The plan for everybody to see: without what the run vouches with."""
    run = plan.run.model_copy(update={"report_key": None})
    return plan.model_copy(update={"run": run}).to_json()


def prefixed(values: Mapping[str, T]) -> dict[str, T]:
    """Values under names that no other code gives."""
    return {f"{PARAMETER_PREFIX}{name}": value for name, value in values.items()}


def log_dataset(client: Any, run_id: str, dataset: DatasetPlan, context: str) -> None:
    """Show the dataset on the run's page; MLflow keeps 36 characters of a digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = (dataset.digest or "").removeprefix("sha256:")[:36]
    source = dataset.source or given(dataset)[1].to_json()
    entity = Dataset(
        name=dataset.name, digest=digest or "unknown", source_type="kubetune", source=str(source)
    )
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def environment() -> dict[str, Any]:
    """Packages and device that a run computes with."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "packages": {
            name: version(name)
            for name in (*PACKAGES, *(name for name in OPTIONAL_PACKAGES if find_spec(name)))
        },
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "threads": torch.get_num_threads(),
    }
