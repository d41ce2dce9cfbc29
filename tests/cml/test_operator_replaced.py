"""A job in CML keeps its run, and what that has made, whatever a user removes."""

from collections.abc import Callable
from typing import Any

import pytest
from kubetune import names
from kubetune.api.run.plan import TAG_MODEL_ID, TAG_PHASE
from kubetune.names import FINALIZER
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import annotations
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run, vouched_tags
from tests.cml.lives import RUNNING, attempts, staying, succeeded
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster


def tied(space: CmlSpace, name: str, key: str) -> None:
    """Wait until status, annotation and finalizer are as they were."""

    def whole(body: dict[str, Any]) -> bool:
        found = {(body.get("status") or {}).get("runKey"), annotations(body).get(names.RUN_KEY)}
        return found == {key} and FINALIZER in (body["metadata"].get("finalizers") or ())

    space.until("FineTuneJob", name, whole)


def replace(space: CmlSpace, name: str) -> None:
    space.replace("FineTuneJob", name)


def replace_and_wipe(space: CmlSpace, name: str) -> None:
    replace(space, name)
    fields = dict.fromkeys(space.get("FineTuneJob", name)["status"])
    space.patch("FineTuneJob", name, {"status": fields}, "status")


@pytest.mark.parametrize("lose", [replace, replace_and_wipe])
def test_a_job_that_is_replaced_keeps_its_run(
    cml_jobs: CmlSpace, lose: Callable[[CmlSpace, str], None]
) -> None:
    name = lose.__name__.replace("_", "-")
    clock: Any = cml_jobs.simulator.clock
    cml_jobs.scripts[name] = succeeded(after=100)
    cml_jobs.job(name, backoffLimit=0)
    cml_jobs.phase(name, "Running")
    key = cml_jobs.run_key(name)
    lose(cml_jobs, name)
    tied(cml_jobs, name, key)
    cml_jobs.phase(name, "Running")
    clock.advance(200)
    body = cml_jobs.phase(name, "Succeeded")
    assert attempts(body) == [("Succeeded", "Trained")]
    assert len(cml_jobs.cml_runs(name)) == 1
    # Its job in CML goes with it, also when it is replaced after its end.
    cml_jobs.replace("FineTuneJob", name)
    cml_jobs.until("FineTuneJob", name, lambda o: FINALIZER in o["metadata"].get("finalizers", ()))
    cml_jobs.delete("FineTuneJob", name)
    eventually(lambda: cml_jobs.find("FineTuneJob", name) is None)
    assert [job.deleted is not None for job in cml_jobs.cml_jobs(name)] == [True]


def test_a_job_that_is_replaced_while_no_operator_runs(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    cml_jobs.job("unseen")
    cml_jobs.phase("unseen", "Running")
    key = cml_jobs.run_key("unseen")
    with cml_operator.stopped():
        cml_jobs.replace("FineTuneJob", "unseen", suspend=True)
    cml_jobs.phase("unseen", "Suspended")
    tied(cml_jobs, "unseen", key)
    (run,) = cml_jobs.cml_runs("unseen")
    assert run.stop_asked is not None
    cml_jobs.replace("FineTuneJob", "unseen", suspend=False)
    cml_jobs.phase("unseen", "Running")
    assert cml_jobs.simulator.most_active_of(key) == 1
    assert len(cml_jobs.cml_jobs("unseen")) == 1


def test_a_job_that_is_deleted_in_the_page_after_its_end_is_not_repeated(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    cml_jobs.job("tidied", backoffLimit=0)
    cml_jobs.phase("tidied", "Running")
    (job,) = cml_jobs.cml_jobs("tidied")
    with cml_operator.stopped():
        uri = cml_jobs.cluster.mlflow_url
        run_id, model_id = logged_run(uri, cml_jobs, "tidied")
        client: Any = MlflowClient(uri)
        told = {TAG_MODEL_ID: model_id, TAG_PHASE: "succeeded"}
        for key, value in vouched_tags(cml_jobs, "tidied", told).items():
            client.set_tag(run_id, key, value)
        client.set_terminated(run_id, "FINISHED")
        cml_jobs.simulator.delete_job_by_hand(job.id)
    body = cml_jobs.phase("tidied", "Succeeded")
    assert body["status"]["result"]["modelUri"] == f"models:/{model_id}"
    assert [found.id for found in cml_jobs.cml_jobs("tidied")] == [job.id]


def test_an_inspection_that_goes_on_gets_its_finalizer_back(cml_jobs: CmlSpace) -> None:
    def held(body: dict[str, Any]) -> bool:
        return FINALIZER in (body["metadata"].get("finalizers") or ())

    cml_jobs.scripts["looked-at"] = staying(RUNNING)
    cml_jobs.create("Model", "looked-at", {"source": {"project": {"path": "elsewhere"}}})
    cml_jobs.until("Model", "looked-at", held)
    eventually(lambda: cml_jobs.cml_runs("looked-at"))
    cml_jobs.replace("Model", "looked-at")
    cml_jobs.until("Model", "looked-at", held)
    cml_jobs.delete("Model", "looked-at")
    eventually(lambda: cml_jobs.find("Model", "looked-at") is None)
    assert [job.deleted is not None for job in cml_jobs.cml_jobs("looked-at")] == [True]


def test_an_orphaning_deletion_leaves_the_run(cml_jobs: CmlSpace) -> None:
    cml_jobs.job("let-go")
    cml_jobs.phase("let-go", "Running")
    cml_jobs.delete("FineTuneJob", "let-go", "Orphan")
    eventually(lambda: cml_jobs.find("FineTuneJob", "let-go") is None)
    (job,) = cml_jobs.cml_jobs("let-go")
    (run,) = cml_jobs.cml_runs("let-go")
    assert run.active
    assert job.deleted is None
