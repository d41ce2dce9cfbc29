"""Training code of the user: what is refused, what waits, and what the plan says."""

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    COLUMNS,
    DATASET_FOUND,
    NOW,
    condition_of,
    dataset,
    job,
    names,
    observed_job,
    ready,
    resource,
    target,
)
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.own_code import MAX_SCRIPT_CHARACTERS
from kubetune.decide.decision import StartRun
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.settings.effective import effective_settings
from pydantic import ValidationError

REF: dict[str, Any] = {"configMapRef": {"name": "code", "key": "train.py"}}
IN_MAP: dict[str, Any] = {"trainer": {"script": REF}}
CML: dict[str, Any] = {
    "kubernetes": None,
    "ownCode": "Allowed",
    "cml": {"url": "https://ws", "project": "p", "runtime": {"kernel": "Python 3.11"},
            "apiKeySecretRef": {"name": "key"}},
}  # fmt: skip
VOLUMES: dict[str, Any] = {
    "kubernetes": {
        "image": "i",
        "volumes": [
            {"name": "all", "claimName": "c", "mountPath": "/code"},
            {"name": "mine", "claimName": "d", "mountPath": "/code/mine/"},
        ],
    }
}


def by_path(path: str, *args: str) -> dict[str, Any]:
    return {"trainer": {"script": {"path": path} | ({"args": list(args)} if args else {})}}


def given(spec: dict[str, Any], text: str | None = "print()", **around: Any) -> ObservedJob:
    return observed_job(job(spec), trainer_text=text, **around)


def plan_of(observed: ObservedJob) -> RunPlan:
    (start,) = decide(observed, NOW).actions
    assert isinstance(start, StartRun)
    return RunPlan.model_validate(start.request.plan)


INVALID = [
    ({"trl": {}, "script": REF}, "at most one of trl, axolotl, script"),
    ({"script": {}}, "exactly one of configMapRef, path"),
    ({"script": {**REF, "path": "a"}}, "exactly one of configMapRef, path"),
    ({"script": {"path": "a/../b"}}, "may not lead upwards"),
    ({"script": {"path": ".."}}, "may not lead upwards"),
    ({"script": {**REF, "args": [1]}}, "valid string"),
]


@pytest.mark.parametrize(("trainer", "says"), INVALID)
def test_what_is_no_script(trainer: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        job({"trainer": trainer})


@pytest.mark.parametrize("more", [{"objective": "dpo"}, {"continueFrom": "adapter"}])
def test_what_does_not_go_with_a_script(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"trainer\.script"):
        job(IN_MAP | more)


REFUSED = [
    ("too long", IN_MAP, "x" * (MAX_SCRIPT_CHARACTERS + 1), {}, "65,537 characters"),
    ("empty", IN_MAP, " \n", {}, "key train.py of ConfigMap code is empty"),
    ("in no volume", by_path("/code/a.py"), None, {}, "it has none"),
    ("beside the volumes", by_path("/codes/a.py"), None, VOLUMES, "(/code, /code/mine/)"),
    ("relative in a cluster", by_path("code/a.py"), None, VOLUMES, "none of the target's volumes"),
    ("absolute in CML", by_path("/code/a.py"), None, CML, "remove the leading /"),
]


@pytest.mark.parametrize(
    ("spec", "text", "on", "says"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refused(spec: dict[str, Any], text: str | None, on: dict[str, Any], says: str) -> None:
    decision = decide(given(spec, text, target=target(**on)), NOW)
    status = decision.status or {}
    assert decision.actions == ()
    assert condition_of(status, "Stalled") == ("True", "InputsRefused")
    assert says in next(c["message"] for c in status["conditions"] if c["type"] == "Ready")


def test_a_missing_config_map_is_waited_for() -> None:
    decision = decide(given(IN_MAP, None), NOW)
    assert condition_of(decision.status or {}, "Reconciling") == ("True", "ConfigMapMissing")
    assert decision.requeue_after


def profile(**spec: Any) -> Any:
    return resource("TuningProfile", "house", spec)


def test_a_profile_may_bring_the_script_where_it_fits() -> None:
    around = {"profile": profile(**IN_MAP)}
    named: dict[str, Any] = {"profileRef": {"name": "house"}}
    assert plan_of(given(named, **around)).training.script is not None
    own = named | {"trainer": {"trl": {}}}
    assert plan_of(given(own, **around)).training.script is None
    pairs = [{"name": name, "type": "string"} for name in ("chosen", "rejected")]
    rows = ready(dataset({"format": "preference"}), **(DATASET_FOUND | {"columns": pairs}))
    unfit = decide(given(named | {"objective": "dpo"}, dataset=rows, **around), NOW)
    message = next(c["message"] for c in (unfit.status or {})["conditions"])
    assert "the profile's trainer.script doesn't go with objective dpo" in message


def test_one_trainer_replaces_another() -> None:
    script = {"path": "b.py", "args": ["-x"]}
    found = effective_settings({"trainer": {"script": script}}, IN_MAP, None, None)
    assert found["trainer"] == {"script": script}
    arguments = {"trl": {"arguments": {"tf32": True}}}
    found = effective_settings({"trainer": arguments}, IN_MAP, None, None)
    assert found["trainer"] == arguments


@pytest.mark.parametrize("trainer", [{"script": REF}, {"axolotl": {"config": {}}}])
def test_several_processes_train(trainer: dict[str, Any]) -> None:
    spec = {"trainer": trainer, "workers": 2, "resources": {"processes": 3}}
    plan = plan_of(given(spec))
    assert (plan.workers, plan.processes) == (2, 3)
    message = conditions_of(given(spec | {"strategy": "fsdp2"}))
    assert "strategy fsdp2 is for trainer.trl" in message


def conditions_of(observed: ObservedJob) -> str:
    return str((decide(observed, NOW).status or {})["conditions"])


PATHS = [
    ("/code/mine/a.py", VOLUMES, "/code/mine/a.py", "/code/mine"),
    ("/code/a.py", VOLUMES, "/code/a.py", "/code"),
    ("src/a.py", CML, "/kubetune/project/src/a.py", "/kubetune/project"),
]


@pytest.mark.parametrize(("path", "on", "full", "root"), PATHS)
def test_a_path_in_the_plan(path: str, on: dict[str, Any], full: str, root: str) -> None:
    found = plan_of(given(by_path(path, "-v"), None, target=target(**on))).training.script
    assert found is not None
    assert (found.name, found.path, found.root) == ("a.py", full, root)
    assert (found.text, found.args) == (None, ["-v"])


def test_the_text_in_the_plan_and_in_the_digest() -> None:
    first = plan_of(given(IN_MAP, "one"))
    script = first.training.script
    assert script is not None
    assert (script.name, script.text) == ("train.py", "one")
    assert plan_of(given(IN_MAP, "one")).lineage_digest == first.lineage_digest
    with_args = {"trainer": {"script": {**REF, "args": ["-x"]}}}
    others = [given(IN_MAP, "two"), given(with_args, "one"), given({}, None)]
    assert first.lineage_digest not in {plan_of(other).lineage_digest for other in others}


def test_a_file_that_may_change_is_never_the_same_training() -> None:
    observed = given(by_path("/code/a.py"), None, target=target(**VOLUMES))
    other = replace(observed, run_key=observed.run_key[::-1])
    assert plan_of(observed).lineage_digest != plan_of(other).lineage_digest


def test_rows_of_any_format_and_no_estimate() -> None:
    pairs = [{"name": name, "type": "string"} for name in ("chosen", "rejected")]
    rows = ready(dataset({"format": "preference"}), **(DATASET_FOUND | {"columns": pairs}))
    decision = decide(given(IN_MAP, dataset=rows), NOW)
    assert names(decision) == ["StartRun"]
    assert "estimate" not in (decision.status or {})
    lacking = ready(dataset({"format": "preference"}), **(DATASET_FOUND | {"columns": COLUMNS}))
    assert names(decide(given(IN_MAP, dataset=lacking), NOW)) == []


def test_the_spec_reads_back() -> None:
    spec = job(IN_MAP).spec
    assert isinstance(spec, FineTuneJobSpec)
    assert spec.to_json()["trainer"] == IN_MAP["trainer"]


def test_minutes_between_checkpoints_are_not_for_axolotl() -> None:
    spec = {"trainer": {"axolotl": {"config": {}}}, "checkpoint": {"everyMinutes": 5}}
    status = decide(given(spec, None), NOW).status or {}
    said = {item["message"] for item in status["conditions"] if item["type"] == "Ready"}
    assert "checkpoint.everyMinutes has no effect on trainer.axolotl" in said.pop()
