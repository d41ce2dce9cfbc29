"""Only whole checkpoints of the same run are gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubetune_runner.training import checkpoints


def make(directory: Path, step: int, lineage: str | None = "a") -> Path:
    folder = directory / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"12345")
    if lineage:
        checkpoints.seal(folder, lineage)
    return folder


def test_the_highest_step_wins(tmp_path: Path) -> None:
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    assert checkpoints.newest(tmp_path, "a") == newest


def truncate(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"123")


def lose(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()


def spoil(folder: Path) -> None:
    (folder / checkpoints.SEAL).write_text("{")


def unseal(folder: Path) -> None:
    (folder / checkpoints.SEAL).unlink()


def reseal(folder: Path) -> None:
    checkpoints.seal(folder, "another run")


@pytest.mark.parametrize("harm", [truncate, lose, spoil, unseal, reseal])
def test_a_harmed_checkpoint_is_passed_over_and_deleted(tmp_path: Path, harm: object) -> None:
    assert callable(harm)
    whole, harmed = make(tmp_path, 4), make(tmp_path, 8)
    harm(harmed)
    assert checkpoints.newest(tmp_path, "a") == whole
    assert not harmed.exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "result").mkdir()
    assert checkpoints.newest(tmp_path, "a") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-best", "result"]
