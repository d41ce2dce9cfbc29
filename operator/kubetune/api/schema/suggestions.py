"""What somebody may have meant by a field that isn't there."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel
from pydantic.alias_generators import to_camel, to_snake

Path = tuple[str | int, ...]

SHOWN = 10
"""Names that a message lists."""
_ANYWHERE = 0.8
"""How alike a name elsewhere must be; one at the same place may be less so."""
_DEPTH = 5

ELSEWHERE: Mapping[str, str] = {
    "r": "method.lora.rank",
    "lora_r": "method.lora.rank",
    "lora_rank": "method.lora.rank",
    "lora_alpha": "method.lora.alpha",
    "lora_dropout": "method.lora.dropout",
    "lora_target": "method.lora.targetModules",
    "lora_target_modules": "method.lora.targetModules",
    "lora_modules_to_save": "method.lora.modulesToSave",
    "peft_use_dora": "method.lora.useDora",
    "peft_use_rslora": "method.lora.useRslora",
    "adapter": "method.type",
    "finetuning_type": "method.type",
    "load_in_4bit": "method.quantization.bits",
    "load_in_8bit": "method.quantization.bits",
    "bnb_4bit_quant_type": "method.quantization.type",
    "bnb_4bit_use_double_quant": "method.quantization.doubleQuantization",
    "bnb_4bit_compute_dtype": "method.quantization.computeDtype",
    "num_epochs": "hyperparameters.epochs",
    "n_epochs": "hyperparameters.epochs",
    "num_train_epochs": "hyperparameters.epochs",
    "lr": "hyperparameters.learningRate",
    "learning_rate_multiplier": "hyperparameters.learningRate",
    "batch_size": "hyperparameters.perDeviceBatchSize",
    "micro_batch_size": "hyperparameters.perDeviceBatchSize",
    "train_batch_size": "hyperparameters.perDeviceBatchSize",
    "per_device_train_batch_size": "hyperparameters.perDeviceBatchSize",
    "grad_accum": "hyperparameters.gradientAccumulationSteps",
    "sequence_len": "hyperparameters.maxLength",
    "cutoff_len": "hyperparameters.maxLength",
    "max_seq_length": "hyperparameters.maxLength",
    "max_seq_len": "hyperparameters.maxLength",
    "model_max_length": "hyperparameters.maxLength",
    "lr_scheduler": "hyperparameters.scheduler",
    "lr_scheduler_type": "hyperparameters.scheduler",
    "warmup_steps": "hyperparameters.warmup",
    "warmup_ratio": "hyperparameters.warmup",
    "sample_packing": "hyperparameters.packing",
    "bf16": "hyperparameters.precision",
    "fp16": "hyperparameters.precision",
    "save_steps": "checkpoint.everySteps",
    "gradient_checkpointing": "hyperparameters.gradientCheckpointing",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "hyperparameters.evaluationSteps",
    "model": "modelRef",
    "base_model": "modelRef",
    "model_name": "modelRef",
    "model_name_or_path": "modelRef",
    "dataset": "datasetRef",
    "datasets": "datasetRef",
    "template": "promptRef",
    "prompt_template": "promptRef",
    "num_workers": "workers",
    "num_gpus": "resources.gpu",
    "optim": "trainer.trl.arguments.optim",
    "optimizer": "trainer.trl.arguments.optim",
    "val_set_size": "splits.evaluationFraction",
    "test_size": "splits.evaluationFraction",
    "dataset_text_field": "columns.text",
    "split": "splits.train",
}
"""Names of peft, transformers, trl and other trainers -> the field, where the kind has it."""


def unknown_field(location: Path, model: type[BaseModel]) -> str:
    """A sentence about a field of a spec that isn't there; ``location`` is its path."""
    name = str(location[-1])
    there = _model_at(location[:-1], model)
    # What trl's configurations have and is refused here isn't worth a mention.
    refused: Mapping[str, str] = getattr(there, "owned", {})
    known = sorted(set(fields(there)) - set(refused)) if there else []
    near = _near(name, known)
    if near and (near.lower() == name.lower() or to_snake(near) == to_snake(name)):
        return f"unknown field; did you mean {near}?"
    # A digit begins another word to to_snake, as in bf_16.
    known_elsewhere = ELSEWHERE.get(name) or ELSEWHERE.get(to_snake(name))
    if known_elsewhere and _has(model, known_elsewhere):
        return f"unknown field; did you mean {known_elsewhere}?"
    if near:
        return f"unknown field; did you mean {near}?"
    if instead := _owned(model).get(name):
        return f"unknown field; {instead}"
    if found := _anywhere(name, model):
        return f"unknown field; did you mean {found}?"
    return f"unknown field; known here: {listed(known)}" if known else "unknown field"


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are; those that aren't plain in quotes."""
    shown = [name if re.fullmatch(r"[\w./-]+", name) else repr(name) for name in names]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


def fields(model: type[BaseModel]) -> dict[str, object]:
    """Fields as they stand in a manifest, and their types."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _near(name: str, known: list[str]) -> str | None:
    for given in (name, to_camel(name)):
        if close := difflib.get_close_matches(given, known, n=1):
            return close[0]
    return None


def _model_at(location: Path, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model at a place inside another."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue  # the item's model is that of the list
        inside: dict[str, object] = fields(current) if current else {}
        current = next(_models(inside[str(part)]), None) if part in inside else None
    return current


def _has(model: type[BaseModel], path: str) -> bool:
    *before, last = path.split(".")
    inside = _model_at(tuple(before), model)
    return inside is not None and last in fields(inside)


def _anywhere(name: str, model: type[BaseModel]) -> str | None:
    """The path of a field of about this name, wherever it is; the shortest of the likest."""
    wanted = to_camel(to_snake(name)).lower()
    best: tuple[float, int, str] | None = None
    for path in _paths(model):
        likeness = difflib.SequenceMatcher(None, wanted, path[-1].lower()).ratio()
        if likeness >= _ANYWHERE:
            found = (-likeness, len(path), ".".join(path))
            best = min(best, found) if best else found
    return best[2] if best else None


def _paths(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    refused: Mapping[str, str] = getattr(model, "owned", {})
    for name, annotation in fields(model).items():
        if name in refused:
            continue
        yield (*before, name)
        if len(before) < _DEPTH:
            for inside in _models(annotation):
                yield from _paths(inside, (*before, name))


def _owned(model: type[BaseModel], depth: int = 0) -> dict[str, str]:
    """Names that are refused somewhere within a model, and what to do instead."""
    found = dict[str, str](getattr(model, "owned", {}))
    if depth < _DEPTH:
        for annotation in fields(model).values():
            for inside in _models(annotation):
                found = _owned(inside, depth + 1) | found
    return found


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
