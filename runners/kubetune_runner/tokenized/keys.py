"""What a table is found by: all that decides on its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubetune.api
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.objectives import OBJECTIVES

import kubetune_runner

_LIBRARIES = ("transformers", "tokenizers", "pyarrow", "jinja2")
_CODE = ("data", "text", "tokenized", "answering", "hidden.py")
"""What of the runner decides on token ids."""
_API = ("rows.py", "kinds/prompt_template/spec.py", "kinds/dataset/spec.py")
"""And what of the API."""
_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.py", "*/*.jinja")
"""Files beside weights that a tokenizer is made of."""


def key_of(plan: RunPlan, digests: tuple[str | None, str | None], tokenizer_folder: Path) -> str:
    """A name for the tables of a plan's rows, with their digests from the inspection or reading."""
    training, dataset = plan.training, plan.dataset
    facts = OBJECTIVES[training.objective]
    made_of: dict[str, Any] = {
        "digests": digests,
        "format": dataset.format,
        "columns": dataset.columns.to_json(),
        "refuseHidden": bool(dataset.refuse_hidden),
        "prompt": plan.prompt.to_json() if plan.prompt else None,
        "tokenizer": dict(_files(tokenizer_folder)),
        "change": training.tokenizer.to_json() if training.tokenizer else None,
        "maxLength": training.hyperparameters.max_length,
        "longRows": training.long_rows,
        "lossRows": (training.evaluation.max_loss_rows, dataset.splits.seed),
        "share": (training.data_fraction, training.data_seed),
        "reads": (list(facts.formats), facts.scores),
        "code": _code(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    text = json.dumps(made_of, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of each file that a tokenizer may be made of."""
    found = {path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(found):
        if not path.name.endswith(".index.json"):
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            yield path.relative_to(folder).as_posix(), digest


@cache
def _code() -> str:
    """Digest of the code that makes texts and token ids of rows."""
    total = hashlib.sha256()
    root, api = Path(kubetune_runner.__file__).parent, Path(kubetune.api.__file__).parent
    parts = [root / name for name in _CODE] + [api / name for name in _API]
    for part in parts:
        for path in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            total.update(f"{path.name}\n".encode() + path.read_bytes())
    return total.hexdigest()
