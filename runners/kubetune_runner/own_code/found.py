"""What the user's code has left in its output folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kubetune.api.bounded import json_file
from kubetune.api.run.plan import ModelPlan
from kubetune.api.training.own_code import ENV_OUTPUT

from kubetune_runner.errors import RunError
from kubetune_runner.model import loading

Kind = Literal["adapter", "model"]

DONE = "done.json"
"""Beside the result: what it is. Another attempt finds it and only measures and uploads."""
SHOWN = 8
_WEIGHTS = ("*.safetensors", "*.bin")
_NOT_RESULT = ("*.pt", "*.pth", "training_args.bin", "optimizer.bin", "trainer_state.json")
"""What trainers write next to a model for themselves."""


@dataclass(frozen=True)
class Found:
    """An adapter or a model."""

    kind: Kind
    folder: Path


def take(output: Path, base: ModelPlan, lineage_digest: str) -> Found:
    """The result, moved to its place and noted as done.

    Raises RunError NoModel.
    """
    kind = _kind(output)
    if kind is None:
        names = sorted(f"{path.name}{'/' * path.is_dir()}" for path in output.iterdir())
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise RunError(
            "NoModel",
            f"the code ended with exit code 0, but its output folder {output} holds no adapter"
            " (adapter_config.json with adapter_model.safetensors) and no model (config.json with"
            f" *.safetensors); found: {', '.join(names[:SHOWN]) or 'nothing'}{more}. Save there,"
            f" such as with trainer.save_model(os.environ[{ENV_OUTPUT!r}])",
        )
    for pattern in _NOT_RESULT:
        for path in output.glob(pattern):
            path.unlink()
    for path in output.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    if kind == "adapter":
        _name_base(output / loading.ADAPTER_CONFIG, base)
    folder = output.parent / kind
    shutil.rmtree(folder, ignore_errors=True)
    output.rename(folder)
    note = json.dumps({"kind": kind, "lineageDigest": lineage_digest})
    (output.parent / DONE).write_text(note, encoding="utf-8")
    return Found(kind, folder)


def is_there(output: Path) -> bool:
    """Whether the output folder holds a result."""
    return _kind(output) is not None


def earlier(results: Path, lineage_digest: str) -> Found | None:
    """The result that an earlier attempt has left."""
    try:
        note: Any = json_file(results / DONE)
        kind: Any = note["kind"] if note["lineageDigest"] == lineage_digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if kind not in ("adapter", "model") or _kind(results / kind) != kind:
        return None
    return Found(kind, results / kind)


def _kind(folder: Path) -> Kind | None:
    if (folder / loading.ADAPTER_CONFIG).is_file() and any(
        any(folder.glob(f"adapter_model{pattern[1:]}")) for pattern in _WEIGHTS
    ):
        return "adapter"
    weights = [
        path
        for pattern in _WEIGHTS
        for path in folder.glob(pattern)
        if path.name not in _NOT_RESULT and not path.name.startswith("adapter_model")
    ]
    return "model" if weights and (folder / "config.json").is_file() else None


def _name_base(path: Path, base: ModelPlan) -> None:
    """Have the adapter name its base as users know it, not by a folder of this run."""
    config: dict[str, Any] = json_file(path)
    config["base_model_name_or_path"], config["revision"] = loading.reference(base)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
