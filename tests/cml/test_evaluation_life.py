"""Evaluations in CML by the real operator: attempts, results, and what is tidied up."""

import pytest
from kubetune.api.run.outcome import Outcome

from tests.cluster.namespace import condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.lives import CRASHED, RUNNING, ended, failed, staying
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

EVALUATED = Outcome(
    status="succeeded",
    reason="Evaluated",
    summary={
        "metrics": {"exactMatch": {"value": 0.5, "low": 0.25, "high": 0.75}},
        "rows": 2,
        "rowsDigest": "sha256:rows",
        "runId": "run-1",
        "experimentId": "1",
    },
)


def evaluate(space: CmlSpace, name: str, **fields: object) -> None:
    spec = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "rows"},
        "promptRef": {"name": "ask"},
        "metrics": ["exactMatch"],
        # Of its own, so that no other test has measured the same.
        "seed": int.from_bytes(name.encode()[:3], "big"),
    }
    space.create("Evaluation", name, spec | fields)


def test_a_failed_attempt_is_repeated_and_the_job_removed_in_the_end(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["measured"] = [failed(CRASHED), ended("ENGINE_SUCCEEDED", EVALUATED)]
    evaluate(cml_jobs, "measured", thresholds=[{"metric": "exactMatch", "min": 0.6}])
    body = cml_jobs.until(
        "Evaluation", "measured", lambda o: phase_of(o) in ("Succeeded", "Failed")
    )
    assert phase_of(body) == "Succeeded", body["status"]
    (candidate,) = body["status"]["candidates"]
    assert candidate["metrics"] == [
        {"name": "exactMatch", "value": "0.5", "low": "0.25", "high": "0.75"}
    ]
    assert candidate["counts"] == {"total": 2, "failed": 1, "preempted": 0}
    assert candidate["misses"] == ["exactMatch 0.5 is below 0.6"]
    assert condition(body, "Passed")[:2] == ("False", "ThresholdsMissed")
    assert body["status"]["target"] == "ComputeTarget/workspace"
    assert len(cml_jobs.cml_runs("measured")) == 2
    eventually(lambda: all(job.deleted is not None for job in cml_jobs.cml_jobs("measured")))


def test_deletion_stops_the_run_also_when_no_operator_sees_it(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    for name in ("dropped", "unseen"):
        cml_jobs.scripts[name] = staying(RUNNING)
        evaluate(cml_jobs, name)
        cml_jobs.until("Evaluation", name, lambda o: phase_of(o) == "Running")
    (dropped,), (unseen,) = (cml_jobs.cml_jobs(name) for name in ("dropped", "unseen"))
    cml_jobs.delete("Evaluation", "dropped")
    eventually(lambda: dropped.deleted is not None)
    with cml_operator.crashed():
        cml_jobs.delete("Evaluation", "unseen")
        assert unseen.deleted is None
    eventually(lambda: cml_jobs.find("Evaluation", "unseen") is None)
    assert unseen.deleted is not None
