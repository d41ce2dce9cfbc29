"""Tables of token ids are made once, found again, and made anew where they are damaged."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_rows import texts
from kubetune.api.run.plan import RunPlan
from kubetune_runner import data
from kubetune_runner.errors import RunError
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.stages import UNWATCHED
from kubetune_runner.tokenized import making, processes, store
from kubetune_runner.tokenized.making import Made, file_of
from kubetune_runner.tokenized.processes import Processes, Work
from kubetune_runner.tokenized.store import Store, evict
from kubetune_runner.tokenized.units import SPLITS, units
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory, Runner

Change = Callable[[RunPlan], RunPlan]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model cache of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / store.FOLDER


def inspected(plan: RunPlan) -> RunPlan:
    """The plan as it is after an inspection: with digests."""
    loaded = data.load(plan.dataset, None)
    found = {"digest": loaded.digest, "split_digest": loaded.split_digest}
    return plan.model_copy(update={"dataset": plan.dataset.model_copy(update=found)})


def kept(home: Path) -> list[Path]:
    """Folders of tables."""
    return sorted(path for path in home.iterdir() if path.is_dir())


def rows_of(inputs: Any) -> list[Any]:
    return [list(inputs.train.rows), list(inputs.evaluation.rows), inputs.train.counts()]


def test_a_second_attempt_reads_nothing(make_plan: PlanFactory, home: Path, tmp_path: Path) -> None:
    plan = inspected(make_plan(rows=texts(40), held_out=[]))
    first = rows_of(prepare(plan))
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    assert rows_of(prepare(plan)) == first
    assert len(kept(home)) == 1
    assert {path.name for path in home.iterdir()} == {kept(home)[0].name}, "no lock is left"


def test_without_digests_the_rows_tell_what_they_are(make_plan: PlanFactory, home: Path) -> None:
    first = rows_of(prepare(make_plan(rows=texts(40), held_out=[])))
    assert rows_of(prepare(make_plan(rows=texts(40), held_out=[]))) == first
    assert len(kept(home)) == 1
    prepare(make_plan(rows=texts(41), held_out=[]))
    assert len(kept(home)) == 2


CHANGES: dict[str, dict[str, Any]] = {
    "the length": {"training": {"hyperparameters": {"maxLength": 60}}},
    "long rows": {"training": {"longRows": "drop"}},
    "a share": {"training": {"dataFraction": 0.5}},
    "another share": {"training": {"dataFraction": 0.5, "dataSeed": 1}},
    "the prompt": {"prompt": {"prompt": "{prompt}", "completion": "{number}"}},
    "columns": {"dataset": {"columns": {"completion": "prompt"}}},
    "the held-out share": {"dataset": {"splits": {"evaluationFraction": 0.3}}},
    "the tokenizer": {"training": {"tokenizer": {"padToken": "<eos>"}}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_on_rows_makes_others(name: str, make_plan: PlanFactory, home: Path) -> None:
    prepare(make_plan(rows=texts(30), held_out=[]))
    prepare(make_plan(rows=texts(30), held_out=[], **CHANGES[name]))
    assert len(kept(home)) == 2


def test_what_decides_on_training_alone_does_not(make_plan: PlanFactory, home: Path) -> None:
    prepare(make_plan(rows=texts(30), held_out=[]))
    other = {"seed": 1, "learningRate": 0.5, "perDeviceBatchSize": 2, "packing": True}
    prepare(make_plan(rows=texts(30), held_out=[], training={"hyperparameters": other}))
    assert len(kept(home)) == 1


@pytest.mark.parametrize("damage", ["bytes", "cut", "gone", "manifest", "no counts", "empty"])
def test_damaged_tables_are_made_again(make_plan: PlanFactory, home: Path, damage: str) -> None:
    plan = make_plan(rows=texts(40), held_out=[])
    first = rows_of(prepare(plan))
    (folder,) = kept(home)
    table, manifest = folder / file_of("train"), folder / store.MANIFEST
    content = table.read_bytes()
    match damage:
        case "bytes":
            at = len(content) // 2
            table.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        case "cut":
            table.write_bytes(content[:-100])
        case "gone":
            table.unlink()
        case "manifest":
            manifest.write_text("{")
        case "no counts":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"counts": {}}))
        case _:
            manifest.write_text("[]")
    assert rows_of(prepare(plan)) == first
    assert table.read_bytes() == content
    assert kept(home) == [folder]


def test_half_written_tables_are_nobodys(make_plan: PlanFactory, home: Path) -> None:
    plan = make_plan(rows=texts(40), held_out=[])
    first = rows_of(prepare(plan))
    (folder,) = kept(home)
    folder.rename(folder.with_name(f".making-{folder.name}"))
    assert rows_of(prepare(plan)) == first
    assert folder.is_dir()


@pytest.mark.parametrize("there", [False, True])
def test_a_cache_that_cannot_be_written(
    make_plan: PlanFactory, home: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever user tests are: nothing can be made below a file."""
    plan = make_plan(rows=texts(40), held_out=[])
    first = rows_of(prepare(plan))
    if not there:
        blocked = home.parent / "file"
        blocked.write_text("")
        monkeypatch.setenv("HF_HOME", str(blocked))
    assert rows_of(prepare(plan)) == first


def test_one_makes_and_the_others_wait(tmp_path: Path) -> None:
    begun, go, made = threading.Event(), threading.Event(), [0]

    def make(folder: Path) -> Made:
        made[0] += 1
        begun.set()
        assert go.wait(60)
        for split in SPLITS:
            (folder / file_of(split)).write_text("rows")
        return Made(rows=made[0])

    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(Store(tmp_path).get("key", make)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    go.set()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert {entry.folder for entry in found} == {tmp_path / "key"}
    assert {entry.made.rows for entry in found} == {1}


def test_who_was_killed_keeps_nobody_waiting(
    make_plan: PlanFactory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_SILENT_SECONDS", 0.0)
    plan = make_plan(rows=texts(40), held_out=[])
    prepare(plan)
    (folder,) = kept(home)
    folder.rename(folder.with_name(f".making-{folder.name}"))
    (home / f"{folder.name}.lock").write_text("")
    prepare(plan)
    assert folder.is_dir()
    assert not (home / f"{folder.name}.lock").exists()


def test_the_least_used_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at, name in enumerate(("old", "used", "new")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / file_of("train")).write_bytes(b"0" * 1000)
        (folder / store.MANIFEST).write_text("{}")
        os.utime(folder / store.MANIFEST, (1000 + at, 1000 + at))
    os.utime(tmp_path / "used" / store.MANIFEST)
    monkeypatch.setattr(store, "MOST_BYTES", 3500)
    evict(tmp_path, 400)
    assert len(kept(tmp_path)) == 3
    evict(tmp_path, 1200)
    assert [path.name for path in kept(tmp_path)] == ["new", "used"]
    evict(tmp_path, 2000)
    assert [path.name for path in kept(tmp_path)] == ["used"]


def test_a_full_disk_says_so(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(rows=texts(40), held_out=[])
    loaded = data.load(plan.dataset, None)
    (tmp_path / file_of("train")).symlink_to("/dev/full")

    tokenizer = prepare(plan).tokenizer
    with pytest.raises(RunError, match=r"disk of .* is full, so the token ids") as caught:
        making.make(loaded, plan, tmp_path, tmp_path, lambda: tokenizer, UNWATCHED)
    assert (caught.value.reason, caught.value.retryable) == ("DiskFull", True)
    full = Path("/dev/full").open("w+b")  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(RunError, match=r"disk of .* is full, so the rows") as caught:
        data.load(plan.dataset, None)
    assert caught.value.reason == "DiskFull"


def test_errors_of_processes_are_those_of_one(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = [
        {"messages": [{"role": "user", "content": str(at)}, {"role": "assistant", "content": "a"}]}
        for at in range(40)
    ]
    template = "{% for m in messages %}{% if m.content == '29' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}"  # fmt: skip  # noqa: E501
    over = {
        "dataset": {"format": "messages"},
        "training": {"tokenizer": {"chatTemplate": template}},
    }
    plan = make_plan(rows=chats, held_out=chats[:2], **over)
    found: list[str] = []
    monkeypatch.setattr(making, "ALONE_BYTES", 0)
    for count in (1, 2):
        monkeypatch.setattr(processes, "wanted", lambda count=count: count)
        with pytest.raises(RunError, match=r"row 30 of file 'train\.jsonl': .*refuses") as caught:
            prepare(plan)
        found.append(f"{caught.value.reason} {caught.value.message}")
    assert found[0] == found[1]


def test_a_process_that_is_killed(make_plan: PlanFactory) -> None:
    plan = make_plan(rows=texts(40), held_out=[])
    loaded = data.load(plan.dataset, None)
    rows = {"train": loaded.train, "evaluation": loaded.evaluation}
    work = Work(plan.to_json(), plan.model.directory or "", [], loaded.train.stored.descriptor)
    with Processes(1, work) as running:
        ((process, _),) = running._running  # pyright: ignore[reportPrivateUsage]
        process.kill()
        process.wait()
        with pytest.raises(RuntimeError, match="ended with exit code -9"):
            next(running.made(units(rows)))


@pytest.mark.training
def test_sigterm_while_tokenizing(
    make_plan: PlanFactory, start_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    """Nothing stays of what was begun, and the next attempt makes it."""
    rows = [row | {"completion": row["completion"] * 20} for row in tickets(100) * 300]
    home = tmp_path / "home"
    runner = start_runner(make_plan(rows=rows, held_out=[]), HF_HOME=str(home), OMP_NUM_THREADS="2")
    runner.wait_for("tokenizing 30,000 rows with 2 processes")
    runner.process.send_signal(signal.SIGTERM)
    code, outcome = runner.wait()
    assert (code, outcome.status) == (75, "interrupted")
    assert not list((home / store.FOLDER).iterdir())
