"""A repository's splits are those that load_dataset has, whatever its files are called."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune_runner.data.findings import Findings
from kubetune_runner.data.sources.hub import split_files
from kubetune_runner.model.hub import HubRepo

WORDS = [
    "train",
    "training",
    "my_train",
    "trainer",
    "test",
    "test-set",
    "valid",
    "dev",
    "val",
    "validation",
    "eval",
    "data",
    "en",
    "0001",
    "train1",
    "part_train_2",
]
SHARDS = ["train-00000-of-00002", "test-00000-of-00001", "extra-00001-of-00003"]
PATTERNS = ["*.jsonl", "**/*.jsonl", "train*.jsonl", "data/*", "en/**", "**"]

paths = st.builds(
    lambda folders, name: "/".join((*folders, f"{name}.jsonl")),
    st.lists(st.sampled_from(WORDS), max_size=2),
    st.sampled_from(WORDS + SHARDS),
)
splits = st.fixed_dictionaries({"split": st.just("train"), "path": st.sampled_from(PATTERNS)})
declared = st.one_of(st.sampled_from(PATTERNS), st.lists(splits, min_size=1, max_size=1))


def theirs(folder: Path) -> dict[str, list[str]] | None:
    """What ``datasets`` makes of the same files; None where it finds none."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    try:
        builder = load_dataset_builder(str(folder), cache_dir=str(folder / ".cache"))
    except (FileNotFoundError, DatasetNotFoundError, DataFilesNotFoundError):
        return None
    # It lists a file twice that two of its patterns match.
    return {
        str(split): sorted({os.path.relpath(name, folder) for name in names})
        for split, names in (builder.config.data_files or {}).items()
    }


@settings(deadline=None, max_examples=60)
@given(names=st.sets(paths, min_size=1, max_size=6), files=st.none() | declared)
def test_splits_are_those_of_load_dataset(names: set[str], files: object) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in names:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text('{"text": "a"}\n')
        if files is not None:
            head = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
            (folder / "README.md").write_text(f"---\n{head}---\n")
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }
        repo = HubRepo("acme/rows", "dataset", "c0", dict(sizes), None, None, cached=folder)
        expected = theirs(folder)
        if expected is None:
            with pytest.raises(Exception, match="no csv, json"):
                split_files(repo, None, Findings())
        else:
            assert split_files(repo, None, Findings()) == expected
