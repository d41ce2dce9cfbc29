"""The model as MLflow's pyfunc loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow.pyfunc.model import PythonModel

from .embeddings import fit_embeddings, unembedded
from .folder import DESCRIPTION, base_model
from .generation import generate
from .requests import Request, requests_of
from .scoring import Answered, answered_of, score
from .shape import Shape, read


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

            base, revision = base_model(folder, context.model_config or {})
            model = auto.from_pretrained(base, revision=revision, **options)
            # The end of a text, which its score belongs to, is found by this token.
            model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
            fit_embeddings(model, folder)
            self.model: Any = PeftModel.from_pretrained(model, folder)
        else:
            self.model = auto.from_pretrained(folder, **options)
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    # MLflow would take type hints here for a schema and complain about them.
    def predict(self, context, model_input, params=None):  # pyright: ignore
        """Answers to what ``requests_of`` takes: texts, chats, tables of either.

        Of a reward model the scores of what ``answered_of`` takes: chats, prompts with answers.
        """
        if self.scores:
            rows = [self._whole(one) for one in answered_of(model_input)]
            self._check(rows)
            return score(self.model, rows, self.tokenizer.pad_token_id, batch=8)
        asked = requests_of(model_input)
        limit = (params or {}).get("max_new_tokens") or self.description["maxNewTokens"]
        shape = Shape(**self.description.get("answer", {}))
        prompts = [self._prompt(request) for request in asked]
        self._check(prompts)
        answers: list[list[int]] = [[] for _ in asked]
        for length in {request.limit or limit for request in asked}:
            places = [at for at, one in enumerate(asked) if (one.limit or limit) == length]
            found = generate(
                self.model,
                self.tokenizer,
                [prompts[at] for at in places],
                batch=8,
                max_new_tokens=length,
                shape=shape,
            )
            for at, answer in zip(places, found, strict=True):
                answers[at] = answer
        return read(self.tokenizer, answers, shape)

    def _check(self, rows: list[list[int]]) -> None:
        if what := unembedded(self.model, self.tokenizer, rows):
            raise ValueError(f"the input has {what}: leave the token out")

    def _prompt(self, asked: Request) -> list[int]:
        """What an answer is generated from."""
        if self.description["chat"]:
            turns = asked.turns or [{"role": "user", "content": asked.text}]
            text = self.tokenizer.apply_chat_template(
                turns, tools=asked.tools, tokenize=False, add_generation_prompt=True
            )
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if asked.turns:
            raise ValueError(
                "this model was trained on texts and not on chats: give prompts, such as"
                " predict(['...'])"
            )
        return self._ids([asked.text])[0]

    def _whole(self, given: Answered) -> list[int]:
        """A prompt with its answer, as in training."""
        prompt, answer = given.prompt, given.answer
        if self.description["chat"]:
            turns = given.turns or [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if given.turns:
            raise ValueError(
                "this reward model was trained on texts and not on chats: give prompt and"
                " completion as texts"
            )
        before, ids = self._ids([prompt, f"{prompt}{answer}"])
        if ids[: len(before)] != before:
            ids = before + self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    def _ids(self, prompts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(prompts)["input_ids"]
        end = self.tokenizer.eos_token_id
        # One that the text has stays; only the tokenizer's own goes.
        adds_end = end is not None and self.tokenizer("a")["input_ids"][-1:] == [end]
        return [ids[:-1] if adds_end else ids for ids in encoded]
