"""Inspections: what they report of datasets, models and prompts, and how small they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import (
    ROWS,
    RUN,
    adapter_files,
    dataset_document,
    files_plan,
    hub_server,  # noqa: F401  # pyright: ignore[reportUnusedImport]
    inspection_plan,
    jsonl,
    model_files,
    tokenizer_json,
    write,
)
from kubetune.api.kinds.inspection import DatasetInspection, ModelInspection, PromptSample
from kubetune.api.run.outcome import MESSAGE_LIMIT_BYTES, ExitCode, Outcome
from kubetune_runner.inspection import run
from kubetune_runner.inspection.model_files import directory_digest

from tests.hub.server import Hub


def files_document(folder: Path, glob: str, **fields: Any) -> dict[str, Any]:
    return files_plan(folder, glob, **fields).to_json()


def directory(folder: Path, name: str = "model") -> dict[str, Any]:
    return {"name": name, "directory": str(folder)}


def test_dataset_inspection_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Start to end below $KUBETUNE_ROOT: outcome, exit code, and neither torch nor much memory."""
    rows = [{"prompt": f"p {at}", "completion": f"c {at}"} for at in range(5000)]
    write(tmp_path / "kubetune" / "dataset", {"rows.jsonl": jsonl(rows)})
    source = {"files": {"directory": "/kubetune/dataset", "glob": "*.jsonl", "format": "jsonl"}}
    plan = {"kind": "inspectDataset", "run": RUN, "dataset": dataset_document(source)}
    write(tmp_path / "kubetune" / "plan", {"plan.json": json.dumps({"version": 1, **plan})})
    script = (
        "import pathlib, re, runpy, sys\n"
        "try:\n"
        "    runpy.run_module('kubetune_runner', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'mlflow', 'pandas'} & set(sys.modules)\n"
        # Not ru_maxrss: a process inherits that from the one that started it.
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    peak = int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024\n"
        "    print(peak, sorted(heavy))\n"
        "    sys.exit(end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KUBETUNE_ROOT": str(tmp_path), "KUBETUNE_TERMINATION_LOG": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.SUCCEEDED, done.stderr
    megabytes, heavy = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert heavy == "[]"
    assert int(megabytes) < 300
    outcome = Outcome.from_message((tmp_path / "dev" / "termination-log").read_text())
    assert outcome is not None
    found = DatasetInspection.model_validate(outcome.summary)
    assert (found.rows.train, found.rows.evaluation) == (4500, 500)


def test_dataset_inspection_agrees_with_loading(tmp_path: Path) -> None:
    from kubetune_runner.data import load

    write(tmp_path, {"rows.jsonl": jsonl([*ROWS, {"prompt": "p", "completion": ""}])})
    outcome = run(inspection_plan("inspectDataset", dataset=files_document(tmp_path, "*.jsonl")))
    assert (outcome.status, outcome.reason) == ("succeeded", "Inspected")
    found = DatasetInspection.model_validate(outcome.summary)
    loaded = load(files_plan(tmp_path, "*.jsonl"), None)
    assert (found.digest, found.split_digest) == (loaded.digest, loaded.split_digest)
    assert (found.rows.train, found.rows.evaluation) == (len(loaded.train), len(loaded.evaluation))
    assert [column.type for column in found.columns] == ["string", "string"]
    assert [(each.row, each.field) for each in found.problems] == [(101, "completion")]
    assert found.problem_count == 1


def test_tokens_are_counted_with_the_models_tokenizer(tmp_path: Path) -> None:
    rows = [{"prompt": "a " * at, "completion": "b"} for at in range(1, 101)]
    write(tmp_path / "data", {"rows.jsonl": jsonl(rows)})
    model = write(tmp_path / "model", {"tokenizer.json": tokenizer_json()})
    plan = {"dataset": files_document(tmp_path / "data", "*"), "model": directory(model, "words")}
    found = DatasetInspection.model_validate(run(inspection_plan("inspectDataset", **plan)).summary)
    assert found.lengths is not None
    histogram = found.lengths.to_json()
    buckets = histogram.pop("buckets")
    assert [(each["upTo"], each["rows"]) for each in buckets] == [
        (16, 15), (32, 16), (64, 32), (128, 37)]  # fmt: skip
    assert histogram == {
        "unit": "tokens",
        "tokenizer": "words",
        "minimum": 2,
        "median": 51,
        "p95": 96,
        "maximum": 101,
        "total": 5150,
    }
    (model / "tokenizer.json").unlink()
    without = run(inspection_plan("inspectDataset", **plan))
    assert without.status == "succeeded"
    assert "tokens are not counted" in json.dumps(without.summary["problems"])


def test_refused_rows_are_a_failure_with_problems(tmp_path: Path) -> None:
    write(tmp_path, {"rows.jsonl": "broken\n" * 100})
    outcome = run(inspection_plan("inspectDataset", dataset=files_document(tmp_path, "*")))
    assert (outcome.status, outcome.reason, outcome.retryable) == ("failed", "InvalidRows", False)
    assert outcome.summary["problemCount"] == 100
    problems: Any = outcome.summary["problems"]
    assert len(problems) == 20
    assert len(outcome.to_message()) <= MESSAGE_LIMIT_BYTES


def test_wide_tables_fit_the_termination_message(tmp_path: Path) -> None:
    names = [os.urandom(60).hex() for _ in range(300)]
    write(tmp_path, {"rows.jsonl": jsonl([dict.fromkeys(names, "x")] * 2)})
    outcome = run(inspection_plan("inspectDataset", dataset=files_document(tmp_path, "*")))
    assert len(outcome.to_message()) <= MESSAGE_LIMIT_BYTES
    found = DatasetInspection.model_validate(outcome.summary)
    assert found.columns_truncated
    assert [column.name for column in found.columns] == names[: len(found.columns)]
    assert len(found.columns) >= 10
    assert found.problem_count == 3


def test_base_model_in_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", model_files())
    outcome = run(inspection_plan("inspectModel", model=directory(folder)))
    assert outcome.status == "succeeded", outcome.message
    assert outcome.summary == {
        "type": "base",
        "revision": directory_digest(folder),
        "architecture": "LlamaForCausalLM",
        "modelType": "llama",
        "parameters": 32 * 16 + 4 * 16 * 16,
        "dtype": "float32",
        "contextLength": 512,
        "sizeBytes": (folder / "model.safetensors").stat().st_size,
        "license": "mit",
        "chatTemplate": True,
        "padToken": "<pad>",
        "padTokenFrom": "tokenizer",
        "hiddenSize": 16,
        "vocabularySize": 32,
        "layers": 2,
        "attentionHeads": 4,
        "keyValueHeads": 4,
        "headSize": 4,
        "intermediateSize": 32,
        "tiedEmbeddings": True,
        "matrices": [
            {"name": "embed_tokens", "count": 1, "rows": 32, "columns": 16},
            {"name": "q_proj", "count": 2, "rows": 16, "columns": 16},
            {"name": "v_proj", "count": 2, "rows": 16, "columns": 16},
        ],
    }


def test_digest_of_a_folder_sees_every_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {**model_files(), "big.bin": bytes(20 * 1024 * 1024)})
    first = directory_digest(folder)
    with (folder / "big.bin").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    second = directory_digest(folder)
    (folder / "config.json").write_text("{}")
    assert len({first, second, directory_digest(folder)}) == 3


def test_models_on_the_hub_are_inspected_without_their_weights(hub: Hub) -> None:
    shards = {
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "one.safetensors"}}),
        "one.safetensors": model_files()["model.safetensors"],
    }
    files: dict[str, Any] = {**model_files(), **shards}
    del files["model.safetensors"]
    commit = hub.add("models", "acme/base", files)
    source = {"repo": "acme/base", "revision": "main"}
    outcome = run(inspection_plan("inspectModel", model={"name": "m", "hub": source}))
    found = ModelInspection.model_validate(outcome.summary)
    assert (found.revision, found.parameters, found.license) == (commit, 1536, "mit")
    assert found.size_bytes == len(files["one.safetensors"])
    cached = [path.name for path in Path(os.environ["HF_HOME"]).rglob("*.safetensors")]
    assert cached == []


def test_gated_models_name_the_field(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "acme/base", dict(model_files()), gated=True, tokens=("hf_right",))
    model = {"name": "m", "hub": {"repo": "acme/base", "revision": "main"}}
    outcome = run(inspection_plan("inspectModel", model=model))
    assert (outcome.reason, outcome.retryable) == ("HubAccessDenied", True)
    assert "tokenSecretRef" in outcome.message
    monkeypatch.setenv("KUBETUNE_MODEL_TOKEN", "hf_right")
    assert run(inspection_plan("inspectModel", model=model)).status == "succeeded"


def adapter_plan(tmp_path: Path, **base: int) -> dict[str, Any]:
    adapter = write(tmp_path / "adapter", adapter_files())
    model = write(tmp_path / "base", model_files(**base))
    return {**directory(adapter), "base": directory(model, "the-base")}


def test_adapter_with_its_base(tmp_path: Path) -> None:
    outcome = run(inspection_plan("inspectModel", model=adapter_plan(tmp_path)))
    found = ModelInspection.model_validate(outcome.summary)
    assert (found.type, found.adapter_rank, found.base_model) == ("adapter", 4, "acme/base")
    assert (found.architecture, found.context_length) == ("LlamaForCausalLM", 512)
    assert found.parameters == 2 * 2 * 4 * 16
    assert found.revision == directory_digest(tmp_path / "adapter")
    assert found.chat_template
    assert found.license is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {
                "peft_type": "LORA",
                "lora_alpha": 8,
                "lora_dropout": 0.1,
                "target_modules": ["v_proj", "q_proj"],
                "bias": "none",
                "use_dora": True,
                "modules_to_save": None,
            },
            {
                "rank": 4,
                "alpha": 8,
                "dropout": 0.1,
                "targetModules": ["q_proj", "v_proj"],
                "bias": "none",
                "useRslora": False,
                "useDora": True,
            },
        ),
        (
            {"peft_type": "LORA", "lora_alpha": 8, "target_modules": [str(i) for i in range(65)]},
            {
                "rank": 4,
                "alpha": 8,
                "dropout": 0.0,
                "bias": "none",
                "useRslora": False,
                "useDora": False,
            },
        ),
        ({"peft_type": "IA3"}, None),
        ({"peft_type": "LORA", "lora_alpha": 8.5}, None),
    ],
    ids=["lora", "many modules", "another kind", "scale that is no whole number"],
)
def test_settings_of_an_adapter(
    tmp_path: Path, config: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    plan = adapter_plan(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({"r": 4} | config))
    outcome = run(inspection_plan("inspectModel", model=plan))
    assert outcome.summary.get("adapter") == expected, outcome


def test_adapter_of_a_wider_model(tmp_path: Path) -> None:
    outcome = run(inspection_plan("inspectModel", model=adapter_plan(tmp_path, hidden=32)))
    assert (outcome.reason, outcome.retryable) == ("BaseModelMismatch", False)
    assert "has shape 4x16" in outcome.message
    assert "of the base has 32x32" in outcome.message
    assert "'the-base'" in outcome.message
    assert "spec.baseModelRef" in outcome.message


def test_adapter_of_a_deeper_model(tmp_path: Path) -> None:
    outcome = run(inspection_plan("inspectModel", model=adapter_plan(tmp_path, layers=1)))
    assert outcome.reason == "BaseModelMismatch"
    assert "'model.layers.1.self_attn.q_proj', which the base doesn't have" in outcome.message


def test_adapters_and_base_models_in_each_others_place(tmp_path: Path) -> None:
    plan = adapter_plan(tmp_path)
    alone = run(inspection_plan("inspectModel", model=directory(tmp_path / "adapter")))
    assert alone.reason == "BaseModelMissing"
    assert "'acme/base'" in alone.message
    swapped = {**plan["base"], "base": directory(tmp_path / "base")}
    assert run(inspection_plan("inspectModel", model=swapped)).reason == "BaseModelUnexpected"
    stacked = {**plan, "base": directory(tmp_path / "adapter")}
    assert run(inspection_plan("inspectModel", model=stacked)).reason == "BaseModelMismatch"


WHOLE = model_files()
BROKEN_MODELS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "neither": ({"weights.txt": b""}, "ModelUnrecognized", "it has 'weights.txt'"),
    "no weights": ({"config.json": WHOLE["config.json"]}, "ModelFilesMissing", "no weights"),
    "broken configuration": ({**WHOLE, "config.json": b"{"}, "ModelFilesInvalid", "isn't JSON"),
    "cut off weights": (
        {**WHOLE, "model.safetensors": WHOLE["model.safetensors"][:-10]},
        "ModelFilesInvalid",
        "model.safetensors of folder",
    ),
    "cut off header": ({**WHOLE, "model.safetensors": b"\x00"}, "ModelFilesInvalid", "is cut off"),
    "no safetensors": ({**WHOLE, "model.safetensors": b"x" * 99}, "ModelFilesInvalid", "isn't a"),
    "Git LFS pointer": (
        {**WHOLE, "model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid"},
        "ModelFilesInvalid",
        "git lfs pull",
    ),
    "missing shard": (
        {
            "config.json": WHOLE["config.json"],
            "model.safetensors.index.json": b'{"weight_map": {"a": "two.safetensors"}}',
        },
        "ModelFilesMissing",
        "'two.safetensors'",
    ),
}


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_broken_models_are_refused(name: str, tmp_path: Path) -> None:
    files, reason, says = BROKEN_MODELS[name]
    folder = write(tmp_path / "model", files)
    outcome = run(inspection_plan("inspectModel", model=directory(folder)))
    assert (outcome.status, outcome.reason, outcome.retryable) == ("failed", reason, False)
    assert says in outcome.message


def test_path_that_does_not_exist(tmp_path: Path) -> None:
    outcome = run(inspection_plan("inspectModel", model=directory(tmp_path / "nowhere")))
    assert outcome.reason == "ModelNotFound"
    assert "source.volume.path" in outcome.message
    (tmp_path / "file").touch()
    outcome = run(inspection_plan("inspectModel", model=directory(tmp_path / "file")))
    assert "is a file, not a folder" in outcome.message


PROMPTS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "prompt": (
        {"prompt": "Q {prompt} {{x}}", "completion": " {completion}"},
        ("Q question {x}", " answer"),
    ),
    "chat": (
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "{prompt}"},
                {"role": "assistant", "content": "{completion}"},
            ]
        },
        ("system:\nBe kind.\n\nuser:\nquestion", "answer"),
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_rendered(name: str, tmp_path: Path) -> None:
    prompt, expected = PROMPTS[name]
    write(tmp_path, {"rows.jsonl": jsonl([{"prompt": "question", "completion": "answer"}])})
    document = files_document(tmp_path, "*")
    outcome = run(inspection_plan("renderPrompt", dataset=document, prompt=prompt))
    sample = PromptSample.model_validate(outcome.summary)
    assert (outcome.reason, sample.prompt, sample.completion) == ("Rendered", *expected)


def test_prompt_slots_and_long_texts(tmp_path: Path) -> None:
    write(tmp_path, {"rows.jsonl": jsonl([{"prompt": "ü" * 5000, "completion": "answer"}])})
    document = files_document(tmp_path, "*")
    prompt = {"prompt": "{question}", "completion": "{completion}"}
    outcome = run(inspection_plan("renderPrompt", dataset=document, prompt=prompt))
    assert outcome.reason == "SlotMissing"
    assert "'completion', 'prompt'" in outcome.message
    prompt["prompt"] = "{prompt}"
    sample = run(inspection_plan("renderPrompt", dataset=document, prompt=prompt)).summary
    assert len(str(sample["prompt"])) == 1000


def test_report_is_best_effort(tmp_path: Path) -> None:
    write(tmp_path, {"rows.jsonl": jsonl(ROWS)})
    tracking = {"uri": "http://127.0.0.1:9", "experiment": "e"}
    plan = inspection_plan(
        "inspectDataset", dataset=files_document(tmp_path, "*"), tracking=tracking
    )
    outcome = run(plan)
    assert outcome.status == "succeeded"
    assert "reportUri" not in outcome.summary
