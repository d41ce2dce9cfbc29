"""What trains instead of trl: which is in force, whether it can run, and what the plan says."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.run.plan import PROJECT_DIRECTORY
from kubetune.api.run.training_plan import ScriptPlan
from kubetune.api.training.axolotl import AxolotlTrainer
from kubetune.api.training.own_code import MAX_SCRIPT_CHARACTERS, ScriptTrainer
from kubetune.api.training.settings import TrainingSettings
from kubetune.decide.settings.axolotl import (
    ConfigError,
    adapter_conflict,
    config_problem,
    configuration,
)
from kubetune.targets.table import facts_of

OtherTrainer = ScriptTrainer | AxolotlTrainer


def other_trainer(
    job: TrainingSettings | None, profile: TrainingSettings | None
) -> OtherTrainer | None:
    """What trains instead of trl: the job's choice, else the profile's."""
    for layer in (job, profile):
        trainer = layer.trainer if layer else None
        if trainer and (trainer.trl or trainer.script or trainer.axolotl):
            return trainer.script or trainer.axolotl
    return None


def text_missing(trainer: OtherTrainer | None, text: str | None) -> str:
    """A sentence when the trainer's ConfigMap, or its key, isn't there."""
    if trainer is None or trainer.config_map_ref is None or text is not None:
        return ""
    named = trainer.config_map_ref
    return (
        f"waiting for key {named.key} of ConfigMap {named.name}, named by"
        f" spec.trainer.{_name(trainer)}.configMapRef"
    )


def trainer_problem(
    trainer: OtherTrainer | None,
    job: FineTuneJobSpec | None,
    text: str | None,
    target: ComputeTargetSpec | None,
) -> str:
    """Why the trainer can't run on the target, else empty."""
    if trainer is None or job is None or target is None:
        return ""
    if job.objective != "sft" or job.continue_from:
        given = "continueFrom" if job.continue_from else f"objective {job.objective}"
        return (
            f"the profile's trainer.{_name(trainer)} doesn't go with {given}: set spec.trainer.trl"
            " to {}, or use another profile"
        )
    if isinstance(trainer, ScriptTrainer):
        return _script_problem(trainer, text, target)
    try:
        return config_problem(configuration(trainer, text), job.to_json())
    except ConfigError as error:
        return str(error)


def settings_conflict(trainer: OtherTrainer | None, text: str | None, settings: JsonObject) -> str:
    """Which of the settings in force the trainer can't follow, else empty."""
    if trainer is None:
        return ""
    if settings.get("strategy") == "fsdp2":
        return (
            f"strategy fsdp2 is for trainer.trl: trainer.{_name(trainer)} says itself how its"
            " processes share the training; leave strategy out"
        )
    if isinstance(trainer, ScriptTrainer):
        return ""
    return adapter_conflict(configuration(trainer, text), settings["method"]["type"])


def axolotl_config(trainer: OtherTrainer | None, text: str | None) -> JsonObject:
    """axolotl's own configuration; empty where something else trains."""
    return configuration(trainer, text) if isinstance(trainer, AxolotlTrainer) else {}


def in_plan(
    trainer: OtherTrainer | None, text: str | None, target: ComputeTargetSpec
) -> JsonObject:
    """The trainer's part of the plan."""
    if trainer is None:
        return {}
    if isinstance(trainer, ScriptTrainer):
        return {"script": _script_plan(trainer, text, target).to_json()}
    return {"axolotl": {"config": configuration(trainer, text)}}


def _script_problem(script: ScriptTrainer, text: str | None, target: ComputeTargetSpec) -> str:
    if script.config_map_ref is not None:
        if len(text or "") > MAX_SCRIPT_CHARACTERS:
            return (
                f"the script in ConfigMap {script.config_map_ref.name} has {len(text or ''):,}"
                f" characters, the limit is {MAX_SCRIPT_CHARACTERS:,}: shorten it, or give it by"
                " trainer.script.path"
            )
        if not (text or "").strip():
            return (
                f"key {script.config_map_ref.key} of ConfigMap {script.config_map_ref.name} is"
                " empty: put the script's text there"
            )
        return ""
    path = script.path or ""
    facts = facts_of(target)
    if facts.has_project:
        if path.startswith("/"):
            return (
                f"trainer.script.path is {path}, and in {facts.name} it is relative to the project:"
                " remove the leading /"
            )
        return ""
    if _mount_of(path, target) is None:
        mounts = target.block.mount_paths if target.block else ()
        return (
            f"trainer.script.path is {path}, which is in none of the target's volumes"
            f" ({', '.join(mounts) or 'it has none'}): add one to spec.kubernetes.volumes of the"
            " target, or put the script into a ConfigMap"
        )
    return ""


def _script_plan(script: ScriptTrainer, text: str | None, target: ComputeTargetSpec) -> ScriptPlan:
    """The script as the run gets it."""
    args = script.args or []
    if script.config_map_ref is not None:
        return ScriptPlan(name=script.config_map_ref.key, text=text or "", args=args)
    path = script.path or ""
    name = path.rpartition("/")[2]
    if facts_of(target).has_project:
        root = PROJECT_DIRECTORY
        return ScriptPlan(name=name, path=f"{root}/{path}", root=root, args=args)
    return ScriptPlan(name=name, path=path, root=_mount_of(path, target), args=args)


def _name(trainer: OtherTrainer) -> str:
    return "script" if isinstance(trainer, ScriptTrainer) else "axolotl"


def _mount_of(path: str, target: ComputeTargetSpec) -> str | None:
    """The innermost mount that the path is in."""
    paths = target.block.mount_paths if target.block else ()
    mounts = [mount.rstrip("/") for mount in paths]
    return max((mount for mount in mounts if path.startswith(f"{mount}/")), key=len, default=None)
