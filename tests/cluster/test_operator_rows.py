"""Rows that can't train, from kubectl apply on: left out with words, or nothing is started."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.namespace import ROWS, Namespace, condition

pytestmark = pytest.mark.cluster


def inline(rows: list[Any], **spec: Any) -> dict[str, Any]:
    return {"source": {"inline": {"rows": rows}}, **spec}


def test_rows_that_are_left_out_are_said(jobs: Namespace) -> None:
    odd = [*ROWS, {"prompt": "a", "completion": ""}, {"prompt": {"a": 1}, "completion": "b"}]
    jobs.create("Dataset", "odd", inline(odd))
    status = jobs.ready("Dataset", "odd")
    checks = status["checks"]
    assert (checks["emptyRows"], checks["unusableRows"]) == (1, 1)
    body = jobs.get("Dataset", "odd")
    assert "left out: 1 are empty and 1 don't fit the format" in condition(body, "Ready")[2]
    assert condition(body, "ChecksPassed")[:2] == ("False", "RowsUnusable")
    named = {problem.get("row") for problem in status["problems"]}
    assert named >= {len(odd) - 1, len(odd)}
    # What kubectl shows tells it, too.
    shown = jobs.cluster.kubectl("get", "dset", "odd", "-o", "wide", "-n", jobs.namespace)
    assert "MESSAGE" in shown
    assert "left out" in shown
    jobs.create("Dataset", "strict", inline(odd, checks={"unusable": "Refuse"}))
    assert "spec.checks.unusable" in jobs.stalls("Dataset", "strict", "RowsUnusable")


def test_files_of_other_kinds_and_delimiters(space: Namespace) -> None:
    (space.files / "rows.zst").write_bytes(b"\x28\xb5\x2f\xfd\x04\x58")
    (space.files / "rows.csv").write_text("prompt;completion\na, b;c\nd;e\nf;g\n")
    packed = {"claimName": "files", "glob": "rows.zst", "format": "jsonl"}
    space.create("Dataset", "packed", {"source": {"volume": packed}})
    assert "zstd -d" in space.stalls("Dataset", "packed", "InvalidRows")
    plain = {"claimName": "files", "glob": "rows.csv", "format": "csv"}
    space.create("Dataset", "found", {"source": {"volume": plain}})
    status = space.ready("Dataset", "found")
    assert [column["name"] for column in status["columns"]] == ["prompt", "completion"]
    assert any("csv.delimiter" in problem["message"] for problem in status["problems"])
    stated = plain | {"csv": {"delimiter": ";"}}
    space.create("Dataset", "stated", {"source": {"volume": stated}})
    assert space.ready("Dataset", "stated").get("problems", []) == []


def test_a_dataset_without_usable_rows_starts_nothing(jobs: Namespace) -> None:
    """It waits for its rows to be corrected; then the same job trains."""
    useless = inline([{"prompt": "a", "completion": ""}, {"prompt": "b"}, {"text": [1]}])
    jobs.create("Dataset", "useless", useless | {"format": "text"})
    assert "none of the 3 rows fits format text" in jobs.stalls(
        "Dataset", "useless", "NoUsableRows"
    )
    body = jobs.get("Dataset", "useless")
    named = {problem.get("row") for problem in body["status"]["problems"]}
    assert named >= {1, 2, 3}
    shown = jobs.cluster.kubectl("get", "dset", "useless", "-o", "wide", "-n", jobs.namespace)
    assert "none of the 3 rows" in shown
    # Pairs may become text by a PromptTemplate, so these are Ready, but not for a job without one.
    jobs.create("Dataset", "lean", inline([{"prompt": "a", "completion": ""}, {"prompt": "b"}]))
    assert jobs.ready("Dataset", "lean")["checks"]["trainableRows"] == 0
    for name, rows in (("patient", "useless"), ("barred", "lean")):
        spec = {"modelRef": {"name": "base"}, "datasetRef": {"name": rows}}
        jobs.create("FineTuneJob", name, spec)
    waited = jobs.waits("FineTuneJob", "patient", "DatasetNotReady")
    assert "useless" in waited
    assert "NoUsableRows" in waited
    assert "lean" in jobs.stalls("FineTuneJob", "barred", "FormatMismatch")
    assert jobs.runs("patient") == jobs.runs("barred") == []
    texts = [{"text": f"text {at}"} for at in range(20)]
    jobs.patch("Dataset", "useless", {"spec": inline(texts)})
    jobs.phase("patient", "Running")
    jobs.end("patient")
    assert jobs.runs("barred") == []
