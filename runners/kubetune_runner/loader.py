"""How MLflow loads a fine-tuned model; this file is stored with every version.

It must run where only torch, transformers, peft and mlflow are installed, so it imports nothing
of kubetune. Evaluation uses the same ``generate``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

ENV_BASE_MODEL = "KUBETUNE_BASE_MODEL"
"""Folder or repository of the base model, instead of the one the adapter names."""
DESCRIPTION = "kubetune.json"
"""File beside the weights: {"dtype", "chat"} with "maxNewTokens", or "scores" when it's true."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    *,
    batch: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """Continuation of each prompt (token ids), without the prompt and the end token.

    Greedy unless a temperature is given.
    """
    import torch
    from transformers import GenerationConfig

    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    stop = sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # transformers would leave all but 50 tokens out.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(
        **sampling,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop or None,
        use_cache=True,
    )
    answers: list[list[int]] = [[] for _ in prompts]
    # Prompts of like length share a batch: less padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(1, *(len(prompts[index]) for index in chosen))
        pads = [width - len(prompts[index]) for index in chosen]
        ids = [
            [tokenizer.pad_token_id] * pad + prompts[index]
            for pad, index in zip(pads, chosen, strict=True)
        ]
        mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=config,
            )
        for index, row in zip(chosen, output[:, width:].tolist(), strict=True):
            length = next((i for i, token in enumerate(row) if token in stop), len(row))
            answers[index] = row[:length]
    return answers


def score(model: Any, rows: list[list[int]], pad: int, *, batch: int) -> list[float]:
    """The score of each text (token ids)."""
    import torch

    scores: list[float] = []
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        width = max(len(ids) for ids in chosen)
        ids = [[*row, *[pad] * (width - len(row))] for row in chosen]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in chosen]
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
            )
        scores += output.logits[:, 0].float().tolist()
    return scores


class FineTunedModel(PythonModel):
    """Prompts in, generated answers out; or, of a reward model, prompts with answers and scores."""

    def load_context(self, context: Any) -> None:
        """Load tokenizer, base model and adapter, or the whole model."""
        import torch
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        folder = Path(next(iter(context.artifacts.values())))
        self.description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self.scores: bool = self.description.get("scores", False)
        options = {"dtype": getattr(torch, self.description["dtype"])}
        auto: Any = AutoModelForCausalLM
        if self.scores:
            auto = AutoModelForSequenceClassification
            options["num_labels"] = 1
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        if (folder / "adapter_config.json").is_file():
            from peft import PeftModel

            base, revision = _base_model(folder, context.model_config or {})
            model = auto.from_pretrained(base, revision=revision, **options)
            # The end of a text, which its score belongs to, is found by this token.
            model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
            self.model: Any = PeftModel.from_pretrained(model, folder)
        else:
            self.model = auto.from_pretrained(folder, **options)
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    # MLflow would take type hints here for a schema and complain about them.
    def predict(self, context, model_input, params=None):  # pyright: ignore
        """Answers to prompts: a list of texts, or a table with the column prompt.

        Of a reward model the scores of answers: a table with the columns prompt and completion.
        """
        if self.scores:
            texts = zip(model_input["prompt"], model_input["completion"], strict=True)
            rows = [self._whole(str(prompt), str(answer)) for prompt, answer in texts]
            return score(self.model, rows, self.tokenizer.pad_token_id, batch=8)
        if hasattr(model_input, "columns"):
            column = "prompt" if "prompt" in model_input.columns else model_input.columns[0]
            model_input = model_input[column].tolist()
        prompts = [str(prompt) for prompt in model_input]
        limit = (params or {}).get("max_new_tokens") or self.description["maxNewTokens"]
        answers = generate(
            self.model, self.tokenizer, self._ids(prompts), batch=8, max_new_tokens=limit
        )
        return self.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def _whole(self, prompt: str, answer: str) -> list[int]:
        """A prompt with its answer, as in training."""
        if self.description["chat"]:
            turns = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        before, ids = self._ids([prompt, f"{prompt}{answer}"])
        if ids[: len(before)] != before:
            ids = before + self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return ids if end is None else [*ids, end]

    def _ids(self, prompts: list[str]) -> list[list[int]]:
        if self.description["chat"]:
            texts = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for prompt in prompts
            ]
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        encoded = self.tokenizer(prompts)["input_ids"]
        return [ids[:-1] if ids and ids[-1] == end else ids for ids in encoded]


def _base_model(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Where the base model is, and its revision."""
    override = config.get("base_model") or os.environ.get(ENV_BASE_MODEL)
    if override:
        return override, "main"
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    name = adapter["base_model_name_or_path"]
    if name.startswith(("models:/", "runs:/")):
        from mlflow.artifacts import download_artifacts

        root = Path(download_artifacts(artifact_uri=name))
        return str(next(root.glob("**/config.json")).parent), "main"
    rooted = Path(os.environ.get("KUBETUNE_ROOT", "/")) / name.lstrip("/")
    if name.startswith("/") and not Path(name).is_dir() and not rooted.is_dir():
        raise FileNotFoundError(
            f"base model {name} is not here: set {ENV_BASE_MODEL} or model_config base_model"
            " to its folder"
        )
    if name.startswith("/"):
        return name if Path(name).is_dir() else str(rooted), "main"
    return name, adapter.get("revision") or "main"


# Not when the runner imports this file for generate.
if __name__ != "kubetune_runner.loader":
    set_model(FineTunedModel())
