"""``cml://localhost`` inside a workload: MLflow's stores of the workspace that started it.

Found by its entry points when this folder is on ``PYTHONPATH``. MLflow loads them while it is
itself being imported, so nothing of it is imported before a store is asked for.
"""

from __future__ import annotations

from typing import Any


def tracking_store(store_uri: str | None = None, artifact_uri: str | None = None) -> Any:
    """The experiments of the workload's project."""
    from cml_mlflow_stores import TrackingStore

    return TrackingStore(store_uri, artifact_uri)


def registry_store(store_uri: str | None = None, tracking_uri: str | None = None) -> Any:
    """The workspace's model registry."""
    from cml_mlflow_stores import RegistryStore

    return RegistryStore(store_uri, tracking_uri)
