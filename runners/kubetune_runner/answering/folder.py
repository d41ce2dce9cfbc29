"""What the folder of a model says of itself, and where its base model is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ENV_BASE_MODEL = "KUBETUNE_BASE_MODEL"
"""Folder or repository of the base model, instead of the one the adapter names."""
CONFIG_BASE_MODEL = "base_model"
"""The same, as a key of MLflow's model_config."""
IN_CLUSTER = ("pvc://", "project://")
"""How addresses begin that lead to a volume or a project, which only runs see."""
DESCRIPTION = "kubetune.json"
"""File next to the weights: {"dtype", "chat"} with "maxNewTokens" and "answer" (of a chat, the
fields of ``Shape``), or "scores" when it's true."""


def base_model(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Where the base model is, and its revision."""
    override = config.get(CONFIG_BASE_MODEL) or os.environ.get(ENV_BASE_MODEL)
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    name, revision = override or adapter["base_model_name_or_path"], adapter.get("revision")
    if override:
        revision = None
    if name.startswith(("models:/", "runs:/")):
        from mlflow.artifacts import download_artifacts

        root = Path(download_artifacts(artifact_uri=name))
        return str(next(root.glob("**/config.json")).parent), "main"
    rooted = Path(os.environ.get("KUBETUNE_ROOT", "/")) / name.lstrip("/")
    is_path = name.startswith("/")
    if name.startswith(IN_CLUSTER) or (is_path and not Path(name).is_dir() and not rooted.is_dir()):
        raise FileNotFoundError(
            f"base model {name} is not here: load the model with model_config="
            f"{{'{CONFIG_BASE_MODEL}': FOLDER_OR_REPOSITORY}}, or set {ENV_BASE_MODEL}"
        )
    if is_path:
        return name if Path(name).is_dir() else str(rooted), "main"
    return name, revision or "main"
