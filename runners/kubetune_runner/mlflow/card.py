"""The model card of a result: what it is, what it was made of, and how it is loaded.

peft writes one that is a form without answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubetune.api.bounded import json_file
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner.answering.folder import DESCRIPTION
from kubetune_runner.model import loading

FILE = "README.md"
_SETTINGS = ("epochs", "maxSteps", "learningRate", "perDeviceBatchSize", "maxLength", "seed")


def write(
    folder: Path,
    plan: RunPlan,
    *,
    rows: Mapping[str, Mapping[str, int]],
    metrics: Mapping[str, float],
) -> None:
    """Write the card into a result's folder, where everything else is already."""
    adapter = (folder / loading.ADAPTER_CONFIG).is_file()
    description = json_file(folder / DESCRIPTION)
    chat = bool(description["chat"])
    base, revision = loading.reference(plan.model.base or plan.model)
    own = plan.model.base is not None and plan.training.continue_from is not None
    facts = {
        "Base model": _code(base) + (f", revision {_code(revision)}" if revision else ""),
        **({"Continued from": f"the adapter {_code(plan.model.name)}"} if own else {}),
        "Objective": plan.training.objective,
        "Method": plan.training.method,
        "Data": f"Dataset {_code(plan.dataset.name)}"
        + (f", digest {_code(plan.dataset.digest)}" if plan.dataset.digest else ""),
        "Rows": ", ".join(f"{split} {counts['used']:,}" for split, counts in rows.items()),
        "Settings": ", ".join(_settings(plan)),
        "Made by": f"FineTuneJob {_code(f'{plan.run.namespace}/{plan.run.name}')} of kubetune",
    }
    name = plan.run.name
    parts = [
        _head(plan, base, adapter=adapter),
        f"# {name}",
        f"{'A LoRA adapter' if adapter else 'A language model'} that was fine-tuned on"
        f" {'chats' if chat else 'texts'}.",
        "\n".join(f"- **{key}**: {value}" for key, value in facts.items()),
        "## Metrics",
        _table(metrics),
        "## How to load it",
        _loading(folder, base, plan, adapter=adapter, chat=chat),
    ]
    (folder / FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(plan: RunPlan, base: str, *, adapter: bool) -> str:
    """What hubs read: YAML before the text."""
    source = plan.model.base or plan.model
    head: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if source.hub is not None:
        head["base_model"] = base
    if not OBJECTIVES[plan.training.objective].scores:
        head["pipeline_tag"] = "text-generation"
    if plan.dataset.hub is not None:
        head["datasets"] = [plan.dataset.hub.repo]
    head["tags"] = ["kubetune", plan.training.objective, *(["lora"] if adapter else [])]
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _settings(plan: RunPlan) -> list[str]:
    given: dict[str, Any] = plan.training.hyperparameters.to_json()
    lora: dict[str, Any] = plan.training.lora.to_json() if plan.training.lora else {}
    return [
        *(f"{name} {given[name]}" for name in _SETTINGS if name in given),
        *(f"lora.{name} {lora[name]}" for name in ("rank", "alpha") if name in lora),
    ]


def _table(metrics: Mapping[str, float]) -> str:
    """Metrics on the held-out rows, after training and before, where both are known."""
    names = [name for name in metrics if not name.startswith("baseline_")]
    if not names:
        return "None were measured."
    lines = ["| metric | before | after |", "|---|---|---|"]
    for name in names:
        before = metrics.get(f"baseline_{name}")
        shown = "" if before is None else f"{before:.6g}"
        lines.append(f"| {name} | {shown} | {metrics[name]:.6g} |")
    return "\n".join(lines)


def _loading(folder: Path, base: str, plan: RunPlan, *, adapter: bool, chat: bool) -> str:
    scores = OBJECTIVES[plan.training.objective].scores
    kind = "SequenceClassification" if scores else "CausalLM"
    source = plan.model.base or plan.model
    place = json.dumps(base if source.hub is not None else "FOLDER_OF_THE_BASE_MODEL")
    revision = source.revision or (source.hub.revision if source.hub else None)
    pinned = f', revision="{revision}"' if source.hub is not None and revision else ""
    asked = '[{"messages": [{"role": "user", "content": "..."}]}]' if chat else '["..."]'
    options = f', model_config={{"base_model": {place}}}' if adapter and not source.hub else ""
    lines = [
        "As MLflow has registered it:",
        "",
        "```python",
        "import mlflow",
        f'model = mlflow.pyfunc.load_model("models:/NAME/VERSION"{options})',
        f"model.predict({asked})",
        "```",
        "",
        "This folder, which is `artifacts/" + folder.name + "` of the version:",
        "",
        "```python",
        f"from transformers import AutoModelFor{kind}, AutoTokenizer",
    ]
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    if adapter:
        lines += [
            "from peft import PeftModel",
            f"base = AutoModelFor{kind}.from_pretrained({place}{pinned})",
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    else:
        lines.append(f'model = AutoModelFor{kind}.from_pretrained("FOLDER")')
    text = "\n".join([*lines, tokenizer, "```"])
    if adapter and source.hub is None:
        where = "the registry" if source.registry_uri else "a volume or project"
        text += (
            f"\n\nThe base model is in {where}, and `adapter_config.json` names it {_code(base)}:"
            " load it first, from where you have it, as above."
        )
    return text


def _code(text: str) -> str:
    plain = re.sub(r"[`\n]", " ", text)
    return f"`{plain}`"
