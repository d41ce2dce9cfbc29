"""axolotl's configuration: what of it is refused, and what it becomes."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import NOW, condition_of, job, names, observed_job, target
from kubetune.api.run.plan import BatchPlan, RunPlan
from kubetune.api.training.axolotl import OWNED, OWNED_PREFIXES, TYPED
from kubetune.api.training.settings import TrainingSettings
from kubetune.decide.decision import StartRun
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.fine_tune_job.states import decide
from kubetune.targets.kubernetes.manifests import build_job
from kubetune_runner.errors import RunError
from kubetune_runner.own_code import axolotl

REF = {"configMapRef": {"name": "code", "key": "axolotl.yaml"}}


def given(config: Any, text: str | None = None, **spec: Any) -> ObservedJob:
    trainer = {"trainer": {"axolotl": {"config": config} if text is None else REF}}
    return observed_job(job(trainer | spec), trainer_text=text)


def plan_of(observed: ObservedJob) -> RunPlan:
    (start,) = decide(observed, NOW).actions
    assert isinstance(start, StartRun)
    return RunPlan.model_validate(start.request.plan)


def refusal(observed: ObservedJob) -> str:
    status = decide(observed, NOW).status or {}
    assert condition_of(status, "Stalled") == ("True", "InputsRefused")
    return next(c["message"] for c in status["conditions"] if c["type"] == "Ready")


@pytest.mark.parametrize("key", [*OWNED, *(f"{prefix}x" for prefix in OWNED_PREFIXES)])
def test_what_is_kubetunes_is_refused_with_what_to_do_instead(key: str) -> None:
    assert refusal(given({key: "x"})).startswith(f"trainer.axolotl: {key} is kubetune's to set: ")


def test_an_output_folder_is_refused_in_words() -> None:
    assert refusal(given({"output_dir": "/elsewhere"})) == (
        "trainer.axolotl: output_dir is kubetune's to set: kubetune takes the result from its own"
        " folder; remove it"
    )


CONFLICTS = [
    ({"learning_rate": 1}, {"hyperparameters": {"learningRate": 0.1}}, "learningRate say the same"),
    ({"lora_r": 8}, {"method": {"lora": {"rank": 4}}}, "method.lora.rank say the same"),
    ({"adapter": "qlora"}, {}, "set method.type to qlora"),
    ({"adapter": None}, {}, "asks for full, and the method in force is lora"),
    ({"adapter": "lora"}, {"method": {"type": "full"}}, "the method in force is full"),
]


@pytest.mark.parametrize(("config", "spec", "says"), CONFLICTS)
def test_nothing_is_said_twice(config: Any, spec: dict[str, Any], says: str) -> None:
    assert says in refusal(given(config, **spec))


TEXTS = [
    ("a: [", "isn't YAML"),
    ("- 1", "is not one map"),
    ("a: 1\n---\nb: 2", "is not one map"),
    ("", "is not one map"),
    ("a: .nan", "isn't JSON"),
    ("a: " + "x" * 70000, "the limit is 65,536"),
    ("output_dir: /x", "output_dir is kubetune's to set"),
]


@pytest.mark.parametrize(("text", "says"), TEXTS)
def test_a_config_map_that_is_no_configuration(text: str, says: str) -> None:
    assert says in refusal(given(None, text))


def test_a_large_configuration_is_refused() -> None:
    assert "the limit is 65,536" in refusal(given({"a": ["x" * 1000] * 80}))


def test_a_missing_config_map_is_waited_for() -> None:
    decision = decide(observed_job(job({"trainer": {"axolotl": REF}})), NOW)
    assert condition_of(decision.status or {}, "Ready") == ("False", "ConfigMapMissing")


def test_the_text_of_a_config_map_is_frozen_in_the_plan() -> None:
    plan = plan_of(given(None, "optimizer: adamw_8bit\nlearning_rate: 1e-5\n"))
    assert plan.training.axolotl is not None
    assert plan.training.axolotl.config == {"optimizer": "adamw_8bit", "learning_rate": 1e-5}
    same = given({"optimizer": "adamw_8bit", "learning_rate": 1e-5})
    assert plan_of(same).lineage_digest == plan.lineage_digest
    assert plan_of(given({"optimizer": "x"})).lineage_digest != plan.lineage_digest
    assert names(decide(given({}), NOW)) == ["StartRun"]


def test_the_image_is_axolotls() -> None:
    own = {"kubernetes": {"image": "runner:1", "axolotlImage": "axolotl:1"}}
    for trainer, image in ((given({}), "axolotl:1"), (observed_job(job()), "runner:1")):
        (start,) = decide(_on(trainer, own), NOW).actions
        assert isinstance(start, StartRun)
        pod = build_job(start.request)["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == image


def _on(observed: ObservedJob, spec: dict[str, Any]) -> ObservedJob:
    from dataclasses import replace

    return replace(observed, target=target(**spec))


def made(config: Any, tmp_path: Path, *, gpu: bool = False, row: Any = None, **spec: Any) -> Any:
    """axolotl's configuration of a job."""
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(row or {"prompt": "p", "completion": "c"}) + "\n")
    plan = plan_of(given(config, **spec))
    return axolotl.configuration(
        plan, Path("/m"), {"train": file, "eval": file}, tmp_path, Path("/out"), gpu=gpu
    )


def test_an_attempt_may_have_a_batch_of_its_own(tmp_path: Path) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"prompt": "p", "completion": "c"}\n')
    plan = plan_of(given({}, onOutOfMemory="HalveBatch"))
    own = BatchPlan(per_device_batch_size=2, gradient_accumulation_steps=4)
    for batch, expected in ((None, (8, 1)), (own, (2, 4))):
        attempt = plan.model_copy(update={"batch": batch}).in_force
        files = {"train": rows}
        found = axolotl.configuration(attempt, Path("/m"), files, tmp_path, Path("/out"), gpu=False)
        assert (found["micro_batch_size"], found["gradient_accumulation_steps"]) == expected


def test_the_plan_fills_what_the_user_leaves_out(tmp_path: Path) -> None:
    found = made({"optimizer": "lion_8bit"}, tmp_path, hyperparameters={"maxSteps": 5})
    assert found["optimizer"] == "lion_8bit"
    assert found["max_steps"] == 5
    assert "num_epochs" not in found
    assert (found["adapter"], found["lora_r"], found["lora_target_linear"]) == ("lora", 16, True)
    assert (found["base_model"], found["output_dir"]) == ("/m", "/out")
    assert found["val_set_size"] == 0
    assert found["bf16"] is found["fp16"] is False
    assert not any(found[name] for name in axolotl.LORA_KERNELS)
    assert found["datasets"][0]["type"]["field_instruction"] == "prompt"


def test_the_users_values_win_and_replace_their_like(tmp_path: Path) -> None:
    config = {"num_epochs": 2, "warmup_steps": 3, "lora_target_modules": ["q_proj"], "bf16": True}
    found = made(config | {"lora_mlp_kernel": True}, tmp_path, gpu=True, method={"type": "qlora"})
    assert found["load_in_4bit"] is True
    for key, value in config.items():
        assert found[key] == value
    assert not {"max_steps", "warmup_ratio", "lora_target_linear", "fp16"} & found.keys()
    assert found["lora_mlp_kernel"] is True
    assert "lora_qkv_kernel" not in found
    full = made({}, tmp_path, method={"type": "full"})
    assert not {"adapter", "lora_r", "load_in_4bit"} & full.keys()


ROWS = [
    ({"messages": [{"role": "user", "content": "x"}]}, "chat_template"),
    ({"text": "x"}, "completion"),
]


@pytest.mark.parametrize(("row", "kind"), ROWS)
def test_kinds_of_rows(tmp_path: Path, row: Any, kind: str) -> None:
    found = made({"eval_steps": 2}, tmp_path, row=row)
    assert found["datasets"][0]["type"] == kind
    assert found["test_datasets"] == found["datasets"]
    assert "val_set_size" not in found


def test_an_image_without_axolotl(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="axolotlImage") as raised:
        axolotl.command({"AXOLOTL_PYTHON": str(tmp_path / "none")}, tmp_path)
    assert raised.value.reason == "AxolotlMissing"


def test_typed_fields_exist() -> None:
    for field in TYPED.values():
        kind: Any = TrainingSettings
        for part in field.split("."):
            known = {f.alias: f for f in kind.model_fields.values()}
            assert part in known, field
            kind = next(
                (one for one in getattr(known[part].annotation, "__args__", ())
                 if hasattr(one, "model_fields")),
                None,
            )  # fmt: skip
