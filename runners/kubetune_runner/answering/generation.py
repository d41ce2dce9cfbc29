"""Generates answers, in those ways that give a prompt the same answer as alone."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from .shape import Shape

PROBES = ("What is red?", "It rains again, and nobody has brought one of the umbrellas along.")
"""Prompts of different lengths."""
_KNOWN_WAYS: weakref.WeakKeyDictionary[Any, Ways] = weakref.WeakKeyDictionary()
log = logging.getLogger(__name__)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    *,
    batch: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    shape: Shape | None = None,
    told: Callable[[int], object] = lambda _: None,
) -> list[list[int]]:
    """Continuation of each prompt (token ids), without the prompt and the end token.

    ``told`` is called with the number of prompts that are done.
    Greedy unless a temperature is given; nothing else that the model's folder says counts.
    """
    import torch
    from transformers import GenerationConfig

    shape, can = shape or Shape(), ways(model, tokenizer)
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    known = [*ends, tokenizer.eos_token_id, *shape.end_tokens]
    stop = sorted({end for end in known if end is not None})
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # transformers would leave all but 50 tokens out.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(
        **sampling,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop or None,
        use_cache=can.cache,
    )
    options: dict[str, Any] = {}
    if shape.end_text:
        options = {"stop_strings": [shape.end_text], "tokenizer": tokenizer}
    if not can.together:
        batch = 1
    answers: list[list[int]] = [[] for _ in prompts]
    # Prompts of like length share a batch: less padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = _padded([prompts[index] for index in chosen], tokenizer.pad_token_id)
        with torch.inference_mode(), _settings(model, config):
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=config,
                **options,
            )
        for index, row in zip(chosen, output[:, len(ids[0]) :].tolist(), strict=True):
            length = next((i for i, token in enumerate(row) if token in stop), len(row))
            answers[index] = row[:length]
        told(start + len(chosen))
    return answers


@dataclass(frozen=True)
class Ways:
    """How a model can generate: ways that change no answer."""

    together: bool
    """Several prompts in a batch."""
    cache: bool


def ways(model: Any, tokenizer: Any) -> Ways:
    """Checks once whether a prompt gets the same answer in a batch, and with a cache."""
    if model not in _KNOWN_WAYS:
        _KNOWN_WAYS[model] = found = _ways(model, tokenizer)
        if not found.together:
            log.warning("the model answers a prompt differently in a batch: one by one, then")
        if not found.cache:
            log.warning("the model answers differently with a cache: without one, then")
    return _KNOWN_WAYS[model]


def _ways(model: Any, tokenizer: Any) -> Ways:
    import torch
    from transformers import GenerationConfig

    short, long = (tokenizer(text)["input_ids"] for text in PROBES)

    def steps(prompts: list[list[int]], cache: bool) -> tuple[list[int], Any]:
        """The first prompt's tokens, and the scores that each was chosen by."""
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=2,
            min_new_tokens=2,
            pad_token_id=tokenizer.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
            use_cache=cache,
        )
        ids, mask = _padded(prompts, tokenizer.pad_token_id)
        with torch.inference_mode(), _settings(model, config):
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=config,
            )
        scores = torch.stack([step[0].float() for step in output.logits])
        return output.sequences[0, len(ids[0]) :].tolist(), scores

    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    tokens, alone = steps([short], False)

    def same(prompts: list[list[int]], cache: bool) -> bool:
        try:
            others, scores = steps(prompts, cache)
        # It may meet anything in a model that knows no padding, or no cache.
        except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                raise
            return False
        # Where the first token is another one by a hair, the second says nothing.
        count = 2 if tokens[0] == others[0] else 1
        apart = (alone[:count] - scores[:count]).abs().max()
        return bool(apart <= tolerance * alone.abs().max())

    cache = same([short], True)
    return Ways(same([short, long], cache), cache)


def _padded(prompts: list[list[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts filled up at the left, and their masks."""
    width = max(1, *map(len, prompts))
    ids = [[*[pad] * (width - len(prompt)), *prompt] for prompt in prompts]
    return ids, [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]


@contextlib.contextmanager
def _settings(model: Any, config: Any) -> Generator[None]:
    """generate would fill up what isn't set in the configuration from the model's own."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
