"""Experiment runs and registered versions of CML, with everything that may be missing."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.clients.cml_models import ExperimentRun, RegisteredModelVersion
from kubetune.tracking.cml_values import (
    CmlVersion,
    cml_version,
    registry_status,
    run_age,
    run_status,
    run_tags,
    tag_list,
    tags_of,
    tracked_run,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


def metric(key: str, value: Any, step: Any = "0", timestamp: Any = NOW) -> JsonObject:
    return {"key": key, "value": value, "step": step, "timestamp": timestamp}


def run(*metrics: JsonObject, **fields: Any) -> ExperimentRun:
    given = {"id": "r-1", "data": {"metrics": list(metrics)}, **fields}
    return ExperimentRun.model_validate(given)


def made_version(item: JsonObject) -> CmlVersion:
    return cml_version(RegisteredModelVersion.model_validate(item), "m-1", "tickets")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("EXPERIMENT_RUN_RUNNING", "RUNNING"),
        ("EXPERIMENT_RUN_SCHEDULED", "SCHEDULED"),
        ("EXPERIMENT_RUN_FINISHED", "FINISHED"),
        ("EXPERIMENT_RUN_KILLED", "KILLED"),
        ("running", "RUNNING"),
        ("EXPERIMENT_RUN_DREAMING", "DREAMING"),
        ("", "UNKNOWN"),
        (None, "UNKNOWN"),
    ],
)
def test_run_status(given: str | None, expected: str) -> None:
    assert run_status(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("READY", "READY"),
        ("Registered", "READY"),
        (None, "READY"),
        ("REGISTERING", "PENDING_REGISTRATION"),
        ("PENDING_REGISTRATION", "PENDING_REGISTRATION"),
        ("FAILED_REGISTRATION", "FAILED_REGISTRATION"),
        ("upload error", "FAILED_REGISTRATION"),
        ("DELETED", "DELETED"),
        ("DELETING", "DELETED"),
        ("ARCHIVED", "ARCHIVED"),
    ],
)
def test_registry_status(given: str | None, expected: str) -> None:
    assert registry_status(given) == expected


def test_newest_value_of_a_metric_is_that_of_the_highest_step() -> None:
    found = tracked_run(
        run(
            metric("loss", 3.0, "9"),
            metric("loss", 1.0, "10", NOW - timedelta(hours=1)),
            metric("loss", 2.0, "2"),
        ),
        "7",
    )
    assert found.metrics == {"loss": 1.0}, "steps are text, and ten is more than nine"


def test_of_one_step_the_newest_time_counts_and_then_the_last_in_line() -> None:
    earlier = NOW - timedelta(seconds=1)
    found = tracked_run(
        run(metric("a", 1, "5"), metric("a", 2, "5", earlier), metric("b", 1), metric("b", 2)), "7"
    )
    assert found.metrics == {"a": 1.0, "b": 2.0}
    assert found.updated_ms == NOW_MS


@pytest.mark.parametrize(
    "timestamp", [NOW, NOW_MS, str(NOW_MS), "2026-01-02T03:04:05Z"], ids=lambda value: type(value)
)
def test_times_of_metrics_come_in_many_forms(timestamp: Any) -> None:
    assert tracked_run(run(metric("loss", 1, "1", timestamp)), "7").updated_ms == NOW_MS


@pytest.mark.parametrize("odd", ["yesterday", "", None])
def test_a_time_or_step_that_can_not_be_read_is_as_old_as_can_be(odd: Any) -> None:
    found = tracked_run(run(metric("loss", 1, odd, odd)), "7")
    assert (found.metrics, found.updated_ms) == ({"loss": 1.0}, 0)


def test_zero_may_be_left_out_and_nan_come_as_text() -> None:
    found = tracked_run(run({"key": "loss"}, metric("a", "NaN"), metric("b", "-Infinity")), "7")
    assert found.metrics["loss"] == 0.0
    assert found.metrics["a"] is math.nan, "equal to itself at the next poll"
    assert found.metrics["b"] == -math.inf


def test_a_run_without_anything_is_still_a_run() -> None:
    for data in ({}, {"metrics": None, "tags": None}, None):
        found = tracked_run(run(data=data, experiment_id=None), "7")
        assert (found.run_id, found.experiment_id, found.run_key) == ("r-1", "7", "")
        assert (found.status, found.metrics, found.tags) == ("UNKNOWN", {}, {})


def test_a_run_that_has_not_started_is_the_youngest() -> None:
    runs = [
        run(id="c", start_time=None),
        run(id="b", start_time=NOW),
        run(id="a", start_time=NOW.replace(tzinfo=None) - timedelta(hours=1)),
    ]
    assert [item.id for item in sorted(runs, key=run_age)] == ["a", "b", "c"]


def test_tags_are_pairs_of_which_the_last_counts() -> None:
    given = [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}, {"key": "b"}, None]
    found = run(data={"tags": given})
    assert run_tags(found) == {"a": "2", "b": ""}
    assert tags_of(tag_list({"ä": "ö", "b": ""})) == {"ä": "ö", "b": ""}


VERSION: JsonObject = {
    "model_version_id": "v-1",
    "number": 3,
    "status": "READY",
    "tags": [{"key": "kubetune.job", "value": "new"}],
    "created_at": NOW,
    "model_version_metadata": {
        "project_id": "p-1",
        "mlflow_metadata": {
            "experiment_id": "7",
            "run_id": "r-1",
            "tags": [
                {"key": "kubetune.job", "value": "old"},
                {"key": "kubetune.model_path", "value": "model"},
            ],
        },
    },
}


def test_a_version_knows_its_run() -> None:
    version = made_version(VERSION)
    assert (version.project_id, version.experiment_id, version.run_id) == ("p-1", "7", "r-1")
    assert version.tags["kubetune.job"] == "new", "the version's own tags count more"
    shown = version.registered()
    assert (shown.name, shown.version, shown.source) == ("tickets", 3, "runs:/r-1/model")
    assert version.registered("runs:/r-1/x").source == "runs:/r-1/x"


def test_a_version_may_be_made_of_something_else() -> None:
    for metadata in (None, {}, {"mlops_type": "SIMPLE", "mlflow_metadata": None}):
        item = VERSION | {"model_version_metadata": metadata, "tags": None, "created_at": None}
        version = made_version(item)
        assert (version.run_id, version.tags) == ("", {})
        assert version.registered().source == "models:/tickets/3"


def test_versions_are_as_old_as_they_say_and_then_as_their_numbers_say() -> None:
    items = [
        VERSION | {"model_version_id": "c", "number": 1, "created_at": None},
        VERSION | {"model_version_id": "b", "number": 10},
        VERSION | {"model_version_id": "a", "number": 9},
        VERSION | {"model_version_id": "z", "created_at": NOW - timedelta(seconds=1)},
    ]
    versions = sorted((made_version(item) for item in items), key=lambda one: one.age)
    assert [version.version_id for version in versions] == ["z", "a", "b", "c"]
