"""Hub sources against the small hub server, by the real client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspection_fixtures import (
    ROWS,
    hub_plan,
    hub_server,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    jsonl,
    model_files,
)
from kubetune_runner.data import load
from kubetune_runner.errors import RunError

from tests.hub.server import Hub

TRAIN = jsonl(ROWS[:60])
TEST = jsonl(ROWS[60:80])


def counts(plan: Any, token: str | None = None) -> tuple[int, int]:
    loaded = load(plan, token)
    return len(loaded.train), len(loaded.evaluation)


def refusal(plan: Any, token: str | None = None) -> RunError:
    with pytest.raises(RunError) as refused:
        load(plan, token)
    return refused.value


def test_clients_find_models_on_the_server(hub: Hub) -> None:
    from huggingface_hub import get_safetensors_metadata, snapshot_download
    from transformers import AutoConfig

    commit = hub.add("models", "acme/tiny", model_files())
    folder = Path(snapshot_download("acme/tiny"))
    assert folder.name == commit
    assert (folder / "model.safetensors").read_bytes() == model_files()["model.safetensors"]
    assert get_safetensors_metadata("acme/tiny").parameter_count == {"F32": 32 * 16 + 4 * 256}
    assert AutoConfig.from_pretrained("acme/tiny", revision=commit).hidden_size == 16


def test_revisions_resolve_to_commits(hub: Hub) -> None:
    first = hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN})
    second = hub.add("datasets", "acme/rows", {"train.jsonl": TEST}, revision="v2")
    assert first != second
    loaded = load(hub_plan("acme/rows"), None)
    assert loaded.revision == first
    again = load(hub_plan("acme/rows", first), None)
    assert (again.revision, again.digest) == (first, loaded.digest)
    other = load(hub_plan("acme/rows", "v2"), None)
    assert other.revision == second
    assert other.digest != loaded.digest


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


NAMES = {
    "file names": {"train.jsonl": TRAIN, "test.jsonl": TEST},
    "shards": {
        "data/train-00000-of-00002.parquet": parquet(ROWS[:30]),
        "data/train-00001-of-00002.parquet": parquet(ROWS[30:60]),
        "data/validation-00000-of-00001.parquet": parquet(ROWS[60:80]),
        "dataset_infos.json": "{}",
    },
    "folders": {"train/a.csv": "prompt\n" + "x\n" * 60, "dev/a.csv": "prompt\n" + "y\n" * 20},
    "words in names": {"my_train_file.json": TRAIN, "my-dev-file.json": TEST},
    "two formats": {
        "train.jsonl": TRAIN,
        "test.jsonl": TEST,
        "train.csv": "prompt\n" + "x\n" * 9,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_splits_follow_the_conventions_for_names(name: str, hub: Hub) -> None:
    files: dict[str, bytes | str] = dict(NAMES[name])
    hub.add("datasets", "acme/rows", {**files, "README.md": "# Rows"})
    assert counts(hub_plan("acme/rows")) == (60, 20)


def test_other_splits_are_not_downloaded(hub: Hub) -> None:
    files = {"train": TRAIN, "test": TEST, "unsupervised": TRAIN}
    hub.add(
        "datasets",
        "acme/rows",
        {f"data/{split}-00000-of-00001.jsonl": rows for split, rows in files.items()},
    )
    assert counts(hub_plan("acme/rows")) == (60, 20)
    downloads = [line for line in hub.requests if line.startswith("GET") and "resolve" in line]
    read = sorted(line.rsplit("/", 1)[1].split("-")[0] for line in downloads)
    assert read == ["test", "train"]


def test_files_that_belong_to_no_split_are_reported(hub: Hub) -> None:
    hub.add("datasets", "acme/rows", {"data/train-00000-of-00001.jsonl": TRAIN, "new.jsonl": TEST})
    loaded = load(hub_plan("acme/rows"), None)
    assert "'new.jsonl'" in " ".join(problem.message for problem in loaded.problems)


CONFIGS = """---
configs:
- config_name: small
  data_files: "small/*.jsonl"
- config_name: full
  default: true
  data_files:
  - split: train
    path: ["full/a*.jsonl", "full/deep/**/*.jsonl"]
  - split: test
    path: full/t.jsonl
- config_name: by_folder
  data_dir: folder
---
# Rows
"""


@pytest.mark.parametrize(
    ("config", "expected"),
    [(None, (80, 20)), ("small", (18, 2)), ("full", (80, 20)), ("by_folder", (60, 20))],
)
def test_configurations_of_the_readme(
    config: str | None, expected: tuple[int, int], hub: Hub
) -> None:
    hub.add(
        "datasets",
        "acme/rows",
        {
            "README.md": CONFIGS,
            "small/x.jsonl": TEST,
            "full/a1.jsonl": TRAIN,
            "full/deep/er/b.jsonl": jsonl(ROWS[80:]),
            "full/t.jsonl": TEST,
            "folder/train.jsonl": TRAIN,
            "folder/test.jsonl": TEST,
        },
    )
    assert counts(hub_plan("acme/rows", config=config)) == expected
    error = refusal(hub_plan("acme/rows", config="nope"))
    assert error.reason == "HubNotFound"
    assert "'small', 'full', 'by_folder'" in error.message


def test_ambiguous_and_empty_repositories(hub: Hub) -> None:
    hub.add("datasets", "acme/two", {"README.md": CONFIGS.replace("  default: true\n", "")})
    assert refusal(hub_plan("acme/two")).reason == "ConfigAmbiguous"
    hub.add("datasets", "acme/script", {"script.py": "", "README.md": "# x"})
    error = refusal(hub_plan("acme/script"))
    assert error.reason == "NoFiles"
    assert "loading script" in error.message
    hub.add("datasets", "acme/text", {"a.txt": "", "b.txt": ""})
    assert "it has 'a.txt', 'b.txt'" in refusal(hub_plan("acme/text")).message


def test_private_repositories_need_the_right_token(hub: Hub) -> None:
    hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN}, private=True, tokens=("hf_right",))
    assert counts(hub_plan("acme/rows"), "hf_right") == (54, 6)
    anonymous = refusal(hub_plan("acme/rows"))
    assert (anonymous.reason, anonymous.retryable) == ("HubAccessDenied", True)
    assert "'acme/rows'" in anonymous.message
    assert "tokenSecretRef" in anonymous.message
    unknown = refusal(hub_plan("acme/rows"), "hf_revoked")
    assert (unknown.reason, unknown.retryable) == ("HubAccessDenied", True)
    assert "hf_revoked" not in unknown.message


def test_gated_repositories_need_the_right_token(hub: Hub) -> None:
    hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN}, gated=True, tokens=("hf_right",))
    assert counts(hub_plan("acme/rows"), "hf_right") == (54, 6)


@pytest.mark.parametrize("token", [None, "hf_anybody"])
def test_gated_repositories_refuse_others(token: str | None, hub: Hub) -> None:
    hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN}, gated=True, tokens=("hf_right",))
    error = refusal(hub_plan("acme/rows"), token)
    assert (error.reason, error.retryable) == ("HubAccessDenied", True)
    assert "tokenSecretRef" in error.message


def test_missing_repositories_and_revisions(hub: Hub) -> None:
    hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN})
    for plan, says in (
        (hub_plan("acme/nowhere"), "doesn't exist"),
        (hub_plan("acme/rows", "v9"), "no revision 'v9'"),
    ):
        error = refusal(plan, "hf_anybody")
        assert (error.reason, error.retryable) == ("HubNotFound", False)
        assert says in error.message


def test_throttling_is_waited_out_and_then_reported(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN})
    hub.throttle(2, retry_after=7)
    assert counts(hub_plan("acme/rows")) == (54, 6)
    assert pauses == [7.0, 7.0]
    hub.throttle(1, retry_after=3600)
    error = refusal(hub_plan("acme/rows"))
    assert (error.reason, error.retryable) == ("HubThrottled", True)
    assert len(pauses) == 2
    hub.throttle(100)
    assert refusal(hub_plan("acme/rows")).reason == "HubThrottled"


def test_an_absent_hub_is_retryable_and_the_cache_serves_commits(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    commit = hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN, "test.jsonl": TEST})
    before = load(hub_plan("acme/rows", commit), None)
    hub.fail(1000)
    error = refusal(hub_plan("acme/rows"))
    assert (error.reason, error.retryable) == ("HubUnreachable", True)
    assert "503" in error.message
    after = load(hub_plan("acme/rows", commit), None)
    assert (after.digest, after.revision) == (before.digest, commit)


def test_tokens_stay_out_of_requests_and_errors(hub: Hub) -> None:
    hub.add("datasets", "acme/rows", {"train.jsonl": TRAIN}, private=True, tokens=("hf_right",))
    hub.add("datasets", "acme/other", {"train.jsonl": TRAIN}, private=True, tokens=("hf_else",))
    error = refusal(hub_plan("acme/other"), "hf_right")
    assert error.reason == "HubNotFound"
    assert "hf_right" not in json.dumps([error.message, error.summary, hub.requests])
