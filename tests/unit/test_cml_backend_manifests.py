"""What is sent to CML for an attempt."""

import json
import random
import string
from dataclasses import replace
from typing import Any

import pytest
from cml_objects import OWNER, RUN_KEY, request
from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.api.schema.base import SecretKeyRef
from kubetune.api.training.settings import Resources
from kubetune.clients.cml_models import Body, Job, variables
from kubetune.targets.cml.archive import Runner
from kubetune.targets.cml.manifests import (
    build_job,
    build_run,
    changes,
    input_files,
    is_ours,
    job_name,
    made,
    with_deletion,
)
from kubetune.targets.cml.offers import Offer
from kubetune.targets.errors import BackendError

RUNNER = Runner("run.py", b"script", "kubetune.zip", b"archive")

OFFER = Offer(project_id="p-1", runtime="registry/python:1")


def body(cml: JsonObject | None = None, offer: Offer = OFFER, **fields: Any) -> JsonObject:
    """The job of a request, as it is sent."""
    job = build_job(request(cml, **fields), offer, "run.py", RUNNER)
    return job.model_dump(exclude_none=True)


def as_answered(sent: JsonObject) -> Job:
    """A job as the API gives it back: its environment is text, and so is its timeout."""
    environment = json.dumps(sent["environment"])
    return Job.model_validate(sent | {"environment": environment, "timeout": str(sent["timeout"])})


def sent(change: Body | None) -> JsonObject:
    """A change as it is sent."""
    assert change is not None
    return change.model_dump(exclude_none=True)


def test_a_job_carries_name_and_mark_of_its_run_key() -> None:
    given = body()
    assert given["name"] == job_name(OWNER, RUN_KEY) == f"kubetune-team-tickets-{RUN_KEY}"
    assert given["arguments"] == RUN_KEY
    assert given["environment"]["KUBETUNE_RUN_KEY"] == RUN_KEY
    assert given["environment"]["KUBETUNE_OWNER"] == "FineTuneJob/team/tickets"
    assert given["environment"]["KUBETUNE_INSTALL"] == "install-1"
    assert is_ours(as_answered(given), OWNER, RUN_KEY)
    # A person's job of the same name.
    for foreign in ("", "[]", "{broken", "null", '{"KUBETUNE_RUN_KEY": null}'):
        assert not is_ours(Job(environment=foreign), OWNER, RUN_KEY)
    assert not is_ours(as_answered(given), OWNER, "another")
    other = replace(OWNER, namespace="another")
    assert not is_ours(as_answered(given), other, RUN_KEY)


IDENTITY = {"installId": "install-1", "runKey": RUN_KEY, "uid": OWNER.uid}


def test_a_job_says_for_whom_it_was_made() -> None:
    given = as_answered(body(plan={"version": 1, "run": IDENTITY}))
    found = made(given, "install-1")
    assert found is not None
    assert (found.owner, found.run_key, found.kept) == (OWNER, RUN_KEY, False)
    assert made(given, "install-2") is None
    assert made(given.model_copy(update={"name": "copied"}), "install-1") is None
    let_go = given.model_copy(update=sent(with_deletion(given, kept=True)))
    assert variables(let_go.environment)["KUBETUNE_DELETION"] == "Orphan"
    found = made(let_go, "install-1")
    assert found is not None
    assert found.kept
    assert is_ours(let_go, OWNER, RUN_KEY)


@pytest.mark.parametrize("lost", ["KUBETUNE_OWNER", "KUBETUNE_DELETION", plan.ENV_PLAN_DATA])
def test_a_job_that_does_not_say_all_of_it_is_nobodys(lost: str) -> None:
    given = body(plan={"version": 1, "run": IDENTITY})
    del given["environment"][lost]
    assert made(as_answered(given), "install-1") is None
    assert made(Job(environment="{broken"), "install-1") is None


def test_a_run_is_told_how_to_launch_further_workers() -> None:
    several: JsonObject = {"workers": 2, "plan": {"version": 1, "workers": 2}}
    environment = body(**several)["environment"]
    resources = {"cpu": 1.5, "memory": 4.0, "nvidia_gpu": 0}
    assert json.loads(environment[plan.ENV_WORKER_RESOURCES]) == resources
    assert environment[plan.ENV_SCRIPT] == "run.py"
    passed = environment[plan.ENV_WORKER_VARIABLES].split(",")
    assert {plan.ENV_RUN_KEY, plan.ENV_PLAN_DATA, plan.ENV_ATTEMPT, plan.ENV_SCRIPT} <= {*passed}
    assert plan.ENV_SCRIPT not in body()["environment"]


def test_another_number_of_workers_brings_the_job_another_plan() -> None:
    before = as_answered(body(plan={"version": 1, "workers": 1}))
    asked = request(workers=2, plan={"version": 1, "workers": 2})
    changed = sent(changes(before, asked, OFFER))
    assert changed.keys() == {"environment"}
    environment = json.loads(changed["environment"])
    assert plan.decode_plan(environment[plan.ENV_PLAN_DATA])["workers"] == 2
    after = before.model_copy(update=changed)
    assert changes(after, asked, OFFER) is None
    again = request(plan={"version": 1, "workers": 1})
    back = json.loads(sent(changes(after, again, OFFER))["environment"])
    assert plan.decode_plan(back[plan.ENV_PLAN_DATA])["workers"] == 1


def test_another_number_of_processes_brings_the_job_another_plan() -> None:
    before = as_answered(body(plan={"version": 1}))
    resources = Resources(cpu="5", memory="4Gi", processes=2)
    asked = request(processes=2, resources=resources, plan={"version": 1, "processes": 2})
    changed = sent(changes(before, asked, OFFER))
    environment = json.loads(changed["environment"])
    assert plan.decode_plan(environment[plan.ENV_PLAN_DATA])["processes"] == 2
    # A workspace says nothing of threads, and each process would take all CPUs.
    assert environment["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in body()["environment"]
    assert changes(before.model_copy(update=changed), asked, OFFER) is None


def test_other_resources_and_another_deadline_change_the_job() -> None:
    before = as_answered(body())
    assert changes(before, request(), OFFER) is None
    asked = request(resources=Resources(cpu="2", memory="8Gi", gpu=1), deadline_seconds=60)
    offer = replace(OFFER, accelerator_label_id="7")
    assert sent(changes(before, asked, offer)) == {
        "cpu": 2.0,
        "memory": 8.0,
        "nvidia_gpu": 1,
        "accelerator_label_id": "7",
        # A change has the fields of a job, whose timeout is text.
        "timeout": "60",
    }


def test_resources_of_a_job() -> None:
    made = body()
    assert (made["cpu"], made["memory"], made["nvidia_gpu"]) == (1.5, 4.0, 0)
    assert "accelerator_label_id" not in made
    gpus = Resources(cpu="2", memory="512Mi", gpu=2)
    made = body(offer=replace(OFFER, accelerator_label_id="7"), resources=gpus)
    assert (made["memory"], made["nvidia_gpu"], made["accelerator_label_id"]) == (0.5, 2, "7")
    assert "runtime_addon_identifiers" not in made
    assert body({"runtimeAddons": ["hadoop"]})["runtime_addon_identifiers"] == ["hadoop"]


@pytest.mark.parametrize(
    ("cml", "fields", "seconds"),
    [
        ({}, {}, 604800),
        ({"timeoutSeconds": 100}, {}, 100),
        ({}, {"deadline_seconds": 50}, 50),
        ({"timeoutSeconds": 100}, {"deadline_seconds": 500}, 100),
        ({}, {"purpose": "inspect"}, 3600),
        ({"timeoutSeconds": 100}, {"purpose": "inspect"}, 100),
    ],
)
def test_every_job_ends_by_itself(cml: JsonObject, fields: JsonObject, seconds: int) -> None:
    made = body(cml, **fields)
    assert (made["timeout"], made["kill_on_timeout"]) == (seconds, True)


def test_the_plan_arrives_as_it_was() -> None:
    template = "Frage: {q} – ☃ " * 500
    whole_plan = {"prompt": {"prompt": template}, "run": {}}
    encoded = body(plan=whole_plan)["environment"][plan.ENV_PLAN_DATA]
    assert encoded.isascii()
    assert len(encoded) < len(template)
    assert plan.decode_plan(encoded) == whole_plan


def test_a_plan_that_no_variable_holds_is_refused() -> None:
    noise = "".join(random.Random(1).choices(string.printable, k=200_000))
    with pytest.raises(BackendError, match="98304") as refused:
        body(plan={"prompt": noise})
    assert refused.value.reason == "PlanTooLarge"
    assert refused.value.retryable is False
    with pytest.raises(BackendError, match=r"spec\.functions"):
        body(plan={"prompt": noise}, purpose="evaluate")


def test_the_targets_environment_never_replaces_ours() -> None:
    given = {
        "KUBETUNE_RUN_KEY": "stolen",
        "KUBETUNE_ANYTHING": "else",
        "MLFLOW_TRACKING_URI": "http://elsewhere",
        "HTTPS_PROXY": "http://proxy/größe",
    }
    env = [{"name": name, "value": value} for name, value in given.items()]
    environment = body({"env": env})["environment"]
    assert environment["KUBETUNE_RUN_KEY"] == RUN_KEY
    assert "KUBETUNE_ANYTHING" not in environment
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert environment["HTTPS_PROXY"] == "http://proxy/größe"


def test_secrets_travel_by_the_names_of_project_variables() -> None:
    tokens = {plan.ENV_MODEL_TOKEN: SecretKeyRef(name="hub-secret", key="hub-key")}
    cml = {"requiredVariables": ["MLFLOW_TRACKING_TOKEN"], "hubTokenVariable": "OUR_TOKEN"}
    made = body(cml, tokens=tokens)
    environment = made["environment"]
    assert environment[plan.ENV_TOKEN_VARIABLES] == f"{plan.ENV_MODEL_TOKEN}=OUR_TOKEN"
    assert environment[plan.ENV_REQUIRED_VARIABLES] == "MLFLOW_TRACKING_TOKEN"
    assert plan.ENV_MODEL_TOKEN not in environment
    text = json.dumps(made)
    for secret in ("hub-secret", "hub-key", "cml-key"):
        assert secret not in text


def test_each_judge_has_a_project_variable_of_its_own() -> None:
    keys = {f"{plan.ENV_JUDGE_KEY}{at}": f"JUDGE_{at}" for at in range(2)}
    tokens = {name: SecretKeyRef(name="judges", key=key) for name, key in keys.items()}
    tokens[plan.ENV_MODEL_TOKEN] = SecretKeyRef(name="hub", key="token")
    environment = body({"hubTokenVariable": "OUR_TOKEN"}, tokens=tokens)["environment"]
    pairs = dict(pair.split("=") for pair in environment[plan.ENV_TOKEN_VARIABLES].split(","))
    assert pairs == keys | {plan.ENV_MODEL_TOKEN: "OUR_TOKEN"}


def test_only_the_attempt_differs_between_runs() -> None:
    again = request(attempt=3)
    job = build_job(again, OFFER, "run.py", RUNNER)
    assert body() == job.model_dump(exclude_none=True)
    assert build_run(again).environment == {plan.ENV_ATTEMPT: "3"}


def test_an_attempt_may_have_a_batch_of_its_own() -> None:
    batch = plan.BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=2)
    again = request(attempt=3, batch=batch, workers=2, plan={"version": 1, "workers": 2})
    assert build_run(again).environment == {plan.ENV_ATTEMPT: "3", plan.ENV_BATCH: "4x2"}
    environment = build_job(again, OFFER, "run.py", RUNNER).environment or {}
    assert plan.ENV_BATCH not in environment, "the job is of all attempts"
    # It reaches the further workers, too.
    assert plan.ENV_BATCH in environment[plan.ENV_WORKER_VARIABLES].split(",")


def test_input_files_lie_below_the_runs_own_folder() -> None:
    rows = [{"prompt": "Grüße ☃", "completion": "zurück"}]
    root = f".kubetune/runs/{RUN_KEY}"
    files = input_files(request(inline_rows=rows), None)
    content = files[root + plan.INLINE_ROWS_FILE].decode()
    assert [json.loads(line) for line in content.splitlines()] == rows
    assert "Grüße" in content
    files = input_files(request(dataset_config_map=("rows", "a.csv")), "ä,b\n")
    assert files == {f"{root}{plan.DATASET_DIRECTORY}/a.csv": "ä,b\n".encode()}
    assert input_files(request(), None) == {}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ('{"A": "1"}', {"A": "1"}),
        ({"A": 1}, {"A": "1"}),
        (None, {}),
        ("null", {}),
        ("[1]", {}),
    ],
)
def test_an_environment_in_any_shape(given: Any, found: dict[str, str]) -> None:
    assert variables(Job.model_validate({"environment": given}).environment) == found
