"""A model's files are compared with the list that was stored with them before any is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.outcome import MESSAGE_LIMIT_BYTES, Outcome
from kubetune.api.run.plan import FILE_LIST, ModelPlan
from kubetune_runner import outcomes
from kubetune_runner.errors import RunError
from kubetune_runner.model import file_list, loading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "more/vocabulary.txt"):
        (tmp_path / name).write_text(f"{{}} {name}")
    return tmp_path


def test_files_as_they_were_stored(folder: Path) -> None:
    listed = file_list.write(folder)
    assert sorted(listed.files) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "more/vocabulary.txt",
    ]
    file_list.check("tuned", folder, listed.digest)
    assert file_list.write(folder) == listed, "another attempt finds the same"


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (
        lambda folder: (folder / "adapter_model.safetensors").write_text("other"),
        "file adapter_model.safetensors was changed",
    ),
    "below": (
        lambda folder: (folder / "more/vocabulary.txt").write_text("other"),
        "file more/vocabulary.txt was changed",
    ),
    "missing": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "file adapter_config.json is missing",
    ),
    "added": (
        lambda folder: (folder / "tokenizer.py").write_text("import os"),
        "file tokenizer.py was added",
    ),
    "list gone": (
        lambda folder: (folder / FILE_LIST).unlink(),
        "the list of its files, is missing",
    ),
    "list follows": (
        lambda folder: (
            (folder / "adapter_config.json").write_text("{}"),
            file_list.write(folder),
        ),
        "the list of its files, was changed",
    ),
    "list is no list": (
        lambda folder: (folder / FILE_LIST).write_bytes(b"\xff["),
        "the list of its files, was changed",
    ),
}


def test_what_the_client_writes_is_left_out_at_the_top_alone(folder: Path) -> None:
    listed = file_list.write(folder)
    for place in (folder, folder / "more"):
        (place / "registered_model_meta").write_text("model_name: m")
        if place == folder:
            file_list.check("tuned", folder, listed.digest)
    with pytest.raises(RunError, match="file more/registered_model_meta was added"):
        file_list.check("tuned", folder, listed.digest)


def test_names_of_files_are_shown_as_text(folder: Path) -> None:
    listed = file_list.write(folder)
    (folder / "a\x1b[2Jb").write_text("")
    with pytest.raises(RunError) as caught:
        file_list.check("tuned", folder, listed.digest)
    assert r"file a\u001b[2Jb was added" in caught.value.message


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_named(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    listed = file_list.write(folder)
    change(folder)
    with pytest.raises(RunError, match=said) as caught:
        file_list.check("tuned", folder, listed.digest)
    assert caught.value.reason == "ModelFilesChanged"
    assert not caught.value.retryable
    assert "restore the files, or train it again" in caught.value.message


def test_a_model_is_compared_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = folder / "artifacts/adapter"
    inner.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).rename(inner / name)
    (folder / "loader.py").write_text("import json")
    listed = file_list.write(folder)
    monkeypatch.setattr(loading, "_from_registry", lambda _: folder)
    plan = ModelPlan(
        name="tuned", type="adapter", registry_uri="models:/m/1", files_digest=listed.digest
    )
    assert loading.fetch(plan) == inner
    (folder / "loader.py").write_text("import os")
    with pytest.raises(RunError, match=r"file loader\.py was changed"):
        loading.fetch(plan)
    # Of a model that somebody else has registered nothing is known.
    loading.fetch(plan.model_copy(update={"files_digest": None}))


def test_a_long_list_leaves_room_for_the_result(tmp_path: Path) -> None:
    for number in range(file_list.MAX_TOLD):
        (tmp_path / f"model-{number:05d}-of-00031-{'x' * 80}.safetensors").write_text(str(number))
    listed = file_list.write(tmp_path)
    summary: dict[str, Any] = {"modelId": "m-1", "metrics": {"eval_loss": 0.5}, **listed.summary()}
    merged = {name: f"sha256:{os.urandom(32).hex()}" for name in listed.files}
    told = {"filesDigest": listed.digest, "files": merged}
    summary |= {"merged": {"modelId": "m-2", **told}, "more": os.urandom(400).hex()}
    done = Outcome(status="succeeded", reason="Trained", summary=summary)
    text = outcomes.message_of(done)
    assert len(text) <= MESSAGE_LIMIT_BYTES
    read = Outcome.from_message(text)
    assert read is not None
    assert read.summary["modelId"] == "m-1"
    assert read.summary["filesDigest"] == listed.digest
    assert read.summary["merged"] == {"modelId": "m-2", "filesDigest": listed.digest}
    (tmp_path / "one-more").write_text("")
    assert "files" not in file_list.write(tmp_path).summary()
