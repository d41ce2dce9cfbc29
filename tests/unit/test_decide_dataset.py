"""What a Dataset waits for and what it shows: one table of named cases."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import (
    DATASET_FOUND,
    MISSING_TARGET,
    MODEL_FOUND,
    NOW,
    dataset,
    facts,
    kstatus,
    model,
    names,
    ready,
    ready_reason,
    resource,
    run,
    target,
)
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.api.run.outcome import Outcome
from kubetune.decide.consent import Lacking
from kubetune.decide.decision import StartRun
from kubetune.decide.inspected.dataset import ObservedDataset, decide, inspection_of
from kubetune.decide.resources import Resource
from kubetune.decide.sources import dataset_source

FOUND = Outcome(status="succeeded", reason="Inspected", summary=DATASET_FOUND)
BAD = Outcome(status="failed", reason="RowShape", message="row 3: no answer", summary={})
CONFIG_MAP = {"source": {"configMap": {"name": "rows", "key": "rows.jsonl"}}}
TOKENIZER = {"tokenizerRef": {"name": "base"}}
BIG = {"source": {"inline": {"rows": [{"prompt": "x" * 70000}, {"prompt": "y" * 70000}]}}}


@dataclass
class Case:
    name: str
    because: str
    dataset: Resource[Any, Any]
    ready: tuple[str, str]
    verdict: str
    actions: list[str] = field(default_factory=list[str])
    around: JsonObject = field(default_factory=dict[str, Any])
    facts: JsonObject = field(default_factory=dict[str, Any])


CASES = [
    Case(
        "new",
        "nothing was read yet, so an inspection starts",
        dataset(),
        ("False", "Inspecting"),
        "InProgress",
        ["StartRun"],
    ),
    Case(
        "unreadable",
        "only the user can repair the spec",
        resource("Dataset", "tickets", None),
        ("False", "InvalidSpec"),
        "Failed",
    ),
    Case(
        "inline rows too large",
        "kubectl apply could not keep its copy",
        dataset(BIG),
        ("False", "InlineRowsTooLarge"),
        "Failed",
    ),
    Case(
        "no ConfigMap",
        "the pod would hang on its mount",
        dataset(CONFIG_MAP),
        ("False", "ConfigMapMissing"),
        "InProgress",
        around={"config_map_missing": True},
    ),
    Case(
        "no tokenizer",
        "its Model may follow in the same manifest",
        dataset(TOKENIZER),
        ("False", "ModelMissing"),
        "InProgress",
    ),
    Case(
        "tokenizer not ready",
        "its revision isn't known yet",
        dataset(TOKENIZER),
        ("False", "ModelNotReady"),
        "InProgress",
        around={"tokenizer": model()},
    ),
    Case(
        "tokenizer ready",
        "all is there",
        dataset(TOKENIZER),
        ("False", "Inspecting"),
        "InProgress",
        ["StartRun"],
        around={"tokenizer": ready(model(), **MODEL_FOUND)},
    ),
    Case(
        "no Secret",
        "the pod could not start",
        dataset(),
        ("False", "SecretMissing"),
        "InProgress",
        facts={
            "lacking": Lacking(Reason.SECRET_MISSING, "waiting for Secret hub in namespace team")
        },
    ),
    Case(
        "no target",
        "nothing says where to run",
        dataset(),
        ("False", "TargetMissing"),
        "InProgress",
        facts={"target": MISSING_TARGET},
    ),
    Case(
        "target not ready",
        "the run would fail there",
        dataset(),
        ("False", "TargetNotReady"),
        "InProgress",
        facts={"target": target(ready=False)},
    ),
    Case(
        "waits for its pod",
        "the reason of the pod is the user's answer",
        dataset(),
        ("False", "Unschedulable"),
        "InProgress",
        facts={"runs": [run(1, "pending", reason="Unschedulable", message="No node fits")]},
    ),
    Case(
        "runs",
        "the run isn't started twice",
        dataset(),
        ("False", "Inspecting"),
        "InProgress",
        facts={"runs": [run(1, "running")]},
    ),
    Case(
        "found",
        "the result is kept and the run not",
        dataset(),
        ("True", "Inspected"),
        "Current",
        ["DeleteRuns"],
        facts={"runs": [run(1, "succeeded", FOUND)]},
    ),
    Case(
        "refused",
        "another try would find the same",
        dataset(),
        ("False", "RowShape"),
        "Failed",
        [],
        facts={"runs": [run(1, "failed", BAD)]},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dataset(case: Case) -> None:
    observed = ObservedDataset(case.dataset, facts(**case.facts), **case.around)
    decision = decide(observed, NOW)
    assert ready_reason(decision) == case.ready, case.because
    assert kstatus(decision.status or {}, 1) == case.verdict, case.because
    assert names(decision) == case.actions, case.because


def test_found_rows_are_in_the_status() -> None:
    runs = [run(1, "succeeded", FOUND)]
    status = decide(ObservedDataset(dataset(), facts(runs=runs)), NOW).status or {}
    assert {key: status[key] for key in DATASET_FOUND} == DATASET_FOUND
    assert status["source"] == "inline (1 rows)"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"huggingFace": {"repo": "org/rows", "config": "en"}}, "hf://org/rows@main (en)"),
        ({"volume": {"claimName": "v", "glob": "a/*.csv", "format": "csv"}}, "pvc://v/a/*.csv"),
        ({"http": {"url": "https://example.org/a", "format": "csv"}}, "https://example.org/a"),
        (CONFIG_MAP["source"], "configmap://rows/rows.jsonl"),
    ],
)
def test_each_source_has_a_line_and_a_request(source: JsonObject, line: str) -> None:
    decision = decide(ObservedDataset(dataset({"source": source}), facts()), NOW)
    assert (decision.status or {})["source"] == line
    start = decision.actions[0]
    assert isinstance(start, StartRun)
    assert start.request.purpose == "inspect"
    assert start.request.plan["run"]["runKey"] == start.request.run_key


def test_output_of_a_job_is_no_tokenizer_source() -> None:
    made = ready(model({"source": {"fineTuneJob": {"name": "tune"}}}), **MODEL_FOUND)
    plan, _ = inspection_of(ObservedDataset(dataset(TOKENIZER), facts(), tokenizer=made))
    assert plan.model is None


def test_deleted_dataset_is_left_alone() -> None:
    assert decide(ObservedDataset(dataset(deleting=True), facts()), NOW).status is None


@pytest.mark.parametrize(
    ("columns", "format", "says"),
    [
        ({"completion": "answer "}, "promptCompletion", "spec.columns.completion is 'answer '"),
        ({"tools": "functions"}, "messages", "spec.columns.tools is 'functions'"),
        ({"prompt": "question"}, "preference", "spec.columns.prompt is 'question'"),
    ],
)
def test_a_column_that_is_named_must_be_there(columns: JsonObject, format: str, says: str) -> None:
    spec = {"columns": columns, "format": format}
    found: JsonObject = DATASET_FOUND | {
        "columns": [{"name": name, "type": "string"} for name in ("prompt", "completion", "answer")]
    }
    outcome = Outcome(status="succeeded", reason="Inspected", message="", summary=found)
    observed = ObservedDataset(dataset(spec), facts(runs=[run(1, "succeeded", outcome)]))
    decision = decide(observed, NOW)
    assert ready_reason(decision) == ("False", "ColumnMissing")
    (message,) = {
        each["message"] for each in (decision.status or {})["conditions"] if each["type"] == "Ready"
    }
    assert says in message
    assert "the columns are prompt, completion, answer: correct it" in message


@pytest.mark.parametrize(
    ("format", "rows", "cell"),
    [
        ("promptCompletion", [{"prompt": "a", "completion": True}], "rows[0].completion"),
        ("text", [{"text": "a"}, {"text": False}], "rows[1].text"),
        ("preference", [{"prompt": True, "chosen": "a", "rejected": "b"}], "rows[0].prompt"),
        (
            "messages",
            [{"messages": [{"role": "assistant", "content": True}]}],
            "rows[0].messages[0].content",
        ),
        (
            "messages",
            [{"messages": None}, {"conversations": [{"from": "gpt", "value": False}]}],
            "rows[1].conversations[0].value",
        ),
        (
            "preference",
            [{"chosen": [{"role": "assistant", "content": True}], "rejected": "b"}],
            "rows[0].chosen[0].content",
        ),
        ("promptCompletion", [{"q": "a", "a": True}, {"q": "a", "a": "maybe"}], "rows[0].a"),
        ("promptCompletion", [{"q": "a", "a": True}], None),
        (
            "unpairedPreference",
            [
                {"prompt": "a", "completion": "b", "label": True},
                {"prompt": "a", "completion": "b", "label": "false"},
            ],
            None,
        ),
    ],
)
def test_words_that_yaml_takes_for_booleans(
    format: str, rows: list[JsonObject], cell: str | None
) -> None:
    spec = {"format": format, "source": {"inline": {"rows": rows}}}
    decision = decide(ObservedDataset(dataset(spec), facts()), NOW)
    assert ready_reason(decision) == ("False", "InvalidSpec" if cell else "Inspecting")
    if cell:
        message = str((decision.status or {})["conditions"])
        assert f"spec.source.inline.{cell} holds true or false where text belongs" in message
        assert "put quotes around" in message


@pytest.mark.parametrize(
    ("row", "cell", "words"),
    [
        ({"prompt": 12345678901234567000}, "rows[0].prompt", "the API server rounds"),
        ({"meta": {"ids": [1, -1e300]}}, "rows[0].meta.ids[1]", "the API server rounds"),
        ({"prompt": "na\ufffdve"}, "rows[0].prompt", "a character was lost"),
        ({"meta": {"\ufffd": 1}}, "rows[0].meta.\ufffd", "a character was lost"),
        ({"prompt": 2**63 - 1}, "", ""),
    ],
)
def test_cells_that_the_api_server_has_changed(row: JsonObject, cell: str, words: str) -> None:
    spec = {"source": {"inline": {"rows": [{"prompt": "a", "completion": "b"} | row]}}}
    decision = decide(ObservedDataset(dataset(spec), facts()), NOW)
    assert ready_reason(decision) == ("False", "InvalidSpec" if cell else "Inspecting")
    if cell:
        message = str((decision.status or {})["conditions"])
        assert f"spec.source.inline.{cell} holds" in message
        assert words in message


def test_numbers_as_text_are_told() -> None:
    """1.10 comes as 1.1, and nobody can see it any more."""
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "version", "completion": 1.1, "n": 1}]
    spec = {"source": {"inline": {"rows": rows}}}
    runs = [run(1, "succeeded", FOUND)]
    decision = decide(ObservedDataset(dataset(spec), facts(runs=runs)), NOW)
    assert ready_reason(decision) == ("True", "Inspected")
    message = str((decision.status or {})["conditions"])
    assert "spec.source.inline.rows[1].completion is a number" in message


@pytest.mark.parametrize(
    "source",
    [
        {"volume": {"claimName": "v", "glob": "*.csv", "format": "csv"}},
        {"project": {"glob": "*.csv", "format": "csv"}},
        {"http": {"url": "https://example.org/a", "format": "csv"}},
        {"configMap": {"name": "rows", "key": "rows.csv", "format": "csv"}},
        {"huggingFace": {"repo": "org/rows"}},
    ],
)
def test_a_delimiter_reaches_the_run(source: JsonObject) -> None:
    ((kind, place),) = source.items()
    spec = {"source": {kind: place | {"csv": {"delimiter": ";"}}}}
    plan, _ = inspection_of(ObservedDataset(dataset(spec), facts()))
    assert plan.dataset is not None
    found = plan.dataset.files or plan.dataset.http or plan.dataset.hub
    assert found is not None
    assert found.delimiter == ";"


@pytest.mark.parametrize("policy", ["Ignore", "Warn", "Refuse"])
def test_jobs_refuse_hidden_parts_by_policy_and_inspections_only_count(policy: str) -> None:
    spec = dataset({"format": "messages", "checks": {"hiddenParts": policy}}).spec
    assert spec is not None
    assert dataset_source("d", spec)[0].refuse_hidden is None
    found: Any = DATASET_FOUND
    plan, _ = dataset_source("d", spec, found)
    assert plan.refuse_hidden == (True if policy == "Refuse" else None)


def test_rows_that_no_reader_of_json_takes() -> None:
    """They come by clients that don't read YAML."""
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    for row, words in (
        ({"text": "\ud83d"}, "row 1 holds half of a surrogate pair"),
        ({"\udc00": 1}, "row 1 holds half of a surrogate pair"),
        ({"text": "a", "meta": deep}, "row 1 has more than 100 lists and maps in each other"),
    ):
        with pytest.raises(ValueError, match=words):
            DatasetSpec.model_validate({"source": {"inline": {"rows": [row]}}})
