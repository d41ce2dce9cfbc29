"""A job keeps its runs whatever a user removes from the object: PUTs, backups, wiped statuses."""

from collections.abc import Callable
from typing import Any

import pytest
from kubetune import names
from kubetune.keys import Keyring
from kubetune.names import FINALIZER, new_run_key

from tests.cluster.namespace import TRAINED, Namespace, annotations, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster


def tied(jobs: Namespace, name: str, key: str | None = None) -> str:
    """The job's run key once status, annotation and finalizer are there; maybe a known one."""

    def whole(body: dict[str, Any]) -> bool:
        found = {(body.get("status") or {}).get("runKey"), annotations(body).get(names.RUN_KEY)}
        finalizers = body["metadata"].get("finalizers") or ()
        same = found == {key} if key else len(found) == 1 and None not in found
        return same and FINALIZER in finalizers

    return jobs.until("FineTuneJob", name, whole)["status"]["runKey"]


def only_run(jobs: Namespace, name: str) -> dict[str, Any]:
    (run,) = jobs.runs(name)
    return run


def test_a_running_job_that_is_replaced_keeps_its_run(jobs: Namespace) -> None:
    jobs.job("put", backoffLimit=0)
    jobs.phase("put", "Running")
    key, run = tied(jobs, "put"), only_run(jobs, "put")
    replaced = jobs.replace("FineTuneJob", "put")
    assert names.RUN_KEY not in annotations(replaced)
    tied(jobs, "put", key)
    assert only_run(jobs, "put")["metadata"]["uid"] == run["metadata"]["uid"]
    jobs.end("put")
    body = jobs.phase("put", "Succeeded")
    assert body["status"]["counts"]["total"] == 1


def test_a_replacement_that_suspends_stops_the_run(jobs: Namespace) -> None:
    jobs.job("put-aside")
    jobs.phase("put-aside", "Running")
    key = tied(jobs, "put-aside")
    jobs.replace("FineTuneJob", "put-aside", suspend=True)
    jobs.phase("put-aside", "Suspended")
    assert jobs.runs("put-aside") == []
    tied(jobs, "put-aside", key)
    # Replaced again while nothing runs, and resumed by another replacement.
    jobs.replace("FineTuneJob", "put-aside")
    tied(jobs, "put-aside", key)
    jobs.replace("FineTuneJob", "put-aside", suspend=False)
    jobs.end_run(key, attempt=2)
    body = jobs.phase("put-aside", "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1, 2]


def test_a_job_that_is_replaced_while_no_operator_runs(jobs: Namespace, operator: Operator) -> None:
    jobs.job("put-unseen", backoffLimit=0)
    jobs.phase("put-unseen", "Running")
    key, run = tied(jobs, "put-unseen"), only_run(jobs, "put-unseen")
    with operator.stopped():
        jobs.replace("FineTuneJob", "put-unseen")
    tied(jobs, "put-unseen", key)
    jobs.end_run(key)
    jobs.phase("put-unseen", "Succeeded")
    assert only_run(jobs, "put-unseen")["metadata"]["uid"] == run["metadata"]["uid"]


def test_a_finished_job_that_is_replaced_stays_as_it_is(jobs: Namespace) -> None:
    jobs.job("put-late", output={"modelName": "late-model"})
    jobs.end("put-late", outcome=TRAINED)
    done = jobs.phase("put-late", "Succeeded")
    jobs.replace("FineTuneJob", "put-late")
    jobs.job("after-put")
    jobs.phase("after-put", "Running")
    assert jobs.get("FineTuneJob", "put-late")["status"] == done["status"]
    jobs.delete("FineTuneJob", "put-late")
    eventually(lambda: jobs.find("FineTuneJob", "put-late") is None)
    eventually(lambda: jobs.runs("put-late") == [])


def wipe_status(jobs: Namespace, name: str) -> None:
    fields = dict.fromkeys(jobs.get("FineTuneJob", name)["status"])
    jobs.patch("FineTuneJob", name, {"status": fields}, "status")


def replace_all(jobs: Namespace, name: str) -> None:
    jobs.replace("FineTuneJob", name)


def wipe_both(jobs: Namespace, name: str) -> None:
    wipe_status(jobs, name)
    replace_all(jobs, name)


def foreign_key(jobs: Namespace, name: str) -> None:
    """A key that somebody else has made, in status and annotation."""
    keys = Keyring((("1", b"a" * 32),))
    key = new_run_key(keys, "another installation", jobs.namespace, name)
    jobs.patch("FineTuneJob", name, {"status": {"runKey": key}}, "status")
    jobs.patch("FineTuneJob", name, {"metadata": {"annotations": {names.RUN_KEY: key}}})


@pytest.mark.parametrize("away", [False, True], ids=["at once", "operator away"])
@pytest.mark.parametrize("lose", [wipe_status, wipe_both, foreign_key])
def test_a_lost_run_key_is_found_again(
    jobs: Namespace, operator: Operator, lose: Callable[[Namespace, str], None], away: bool
) -> None:
    name = f"lost-{lose.__name__.replace('_', '-')}{'-away' if away else ''}"
    jobs.job(name, backoffLimit=0)
    jobs.phase(name, "Running")
    key, run = tied(jobs, name), only_run(jobs, name)
    if away:
        with operator.stopped():
            lose(jobs, name)
    else:
        lose(jobs, name)
    jobs.until("FineTuneJob", name, lambda o: phase_of(o) == "Running")
    tied(jobs, name, key)
    assert only_run(jobs, name)["metadata"]["uid"] == run["metadata"]["uid"]
    jobs.end_run(key)
    body = jobs.phase(name, "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1]


@pytest.mark.parametrize("away", [False, True], ids=["at once", "operator away"])
def test_a_run_whose_labels_are_removed_is_not_lost(
    jobs: Namespace, operator: Operator, away: bool
) -> None:
    name = "bare-away" if away else "bare"
    jobs.job(name, backoffLimit=0)
    jobs.phase(name, "Running")
    key, run = tied(jobs, name), only_run(jobs, name)
    bare = {"labels": dict.fromkeys(run["metadata"]["labels"])}
    if away:
        with operator.stopped():
            jobs.patch("Job", run["metadata"]["name"], {"metadata": bare})
    else:
        jobs.patch("Job", run["metadata"]["name"], {"metadata": bare})

    def labelled() -> bool:
        labels = jobs.get("Job", run["metadata"]["name"])["metadata"].get("labels") or {}
        return labels.get(names.RUN_KEY) == key

    eventually(labelled)
    jobs.end_run(key)
    body = jobs.phase(name, "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1]


def test_another_attempts_number_on_a_run_changes_nothing(jobs: Namespace) -> None:
    jobs.job("renumbered", backoffLimit=0)
    jobs.phase("renumbered", "Running")
    run = only_run(jobs, "renumbered")
    false = {"labels": {names.ATTEMPT: "seven", names.RUN_KEY: "another"}}
    jobs.patch("Job", run["metadata"]["name"], {"metadata": false})
    jobs.end("renumbered")
    body = jobs.phase("renumbered", "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1]


def test_an_output_model_that_is_replaced_stays_the_jobs(jobs: Namespace) -> None:
    jobs.job("maker", output={"modelName": "made"})
    jobs.end("maker", outcome=TRAINED)
    jobs.phase("maker", "Succeeded")
    jobs.until("Model", "made", lambda o: (o.get("status") or {}).get("madeBy") == "maker")
    jobs.replace("Model", "made")
    jobs.until("Model", "made", lambda o: annotations(o).get(names.JOB) == "maker")
    # Made anew, as after a time to live, the job may have its model's name again.
    jobs.delete("FineTuneJob", "maker")
    eventually(lambda: jobs.find("FineTuneJob", "maker") is None)
    jobs.job("maker", output={"modelName": "made"})
    jobs.end("maker", outcome=TRAINED)
    body = jobs.phase("maker", "Succeeded")
    assert condition(body, "Complete")[0] == "True"
