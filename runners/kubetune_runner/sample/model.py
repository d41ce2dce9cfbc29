"""A Llama of 2.6 million parameters, pretrained on the standard library's docstrings.

It takes half a minute on one core and knows nothing of the sample tickets, so fine-tuning
it shows real learning. The same Python version gives the same model.
"""

from __future__ import annotations

import ast
import inspect
import json
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE_FILE = "sample.json"
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{% generation %}{{ message.content }}"
    "{{ eos_token }}{% endgeneration %}"
    "{% else %}<|{{ message.role }}|>{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MINIMUM_DOCSTRING = 80


@dataclass(frozen=True)
class Recipe:
    """Size of the model and length of its pretraining."""

    steps: int = 60
    batch: int = 16
    length: int = 64
    learning_rate: float = 2e-3
    warmup: int = 20
    vocabulary: int = 4096
    hidden: int = 192
    intermediate: int = 512
    layers: int = 4
    heads: int = 6
    context: int = 512
    initializer_range: float = 0.07
    """About 1 / sqrt(hidden): the frozen, tied head then gives logits large enough for an
    adapter to be sure of itself. transformers' 0.02 left a loss of 2.9 at full accuracy."""
    characters: int | None = None
    """Characters of the corpus that are used; None: all."""
    seed: int = 42


RECIPES = {
    "quickstart": Recipe(),
    # Made in seconds, for tests that need a model and not what it knows.
    "test": Recipe(
        steps=10, length=64, warmup=2, vocabulary=1024, hidden=64, intermediate=128, layers=2,
        heads=4, context=256, characters=100_000,
    ),
}  # fmt: skip


def make_model(directory: Path, recipe: Recipe, report: Callable[[int, int, float], None]) -> None:
    """Pretrain and save model and tokenizer; nothing to do when the folder holds them already.

    ``report`` gets step, all steps and loss after every step.
    """
    done = directory / DONE_FILE
    fingerprint = {"recipe": repr(recipe), "python": sysconfig.get_python_version()}
    if done.is_file() and json.loads(done.read_text()) == fingerprint:
        return
    texts = list(_docstrings(recipe.characters))
    tokenizer = _tokenizer(texts, recipe)
    model = _pretrain(tokenizer, texts, recipe, report)
    directory.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    done.write_text(json.dumps(fingerprint))


def _docstrings(limit: int | None) -> Iterator[str]:
    """Docstrings of the standard library, file by file in a fixed order."""
    total = 0
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if parts[0] in ("site-packages", "dist-packages", "test", "lib2to3", "idlelib"):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
                if len(text) > MINIMUM_DOCSTRING:
                    total += len(text)
                    yield text
                    if limit is not None and total >= limit:
                        return


def _tokenizer(texts: list[str], recipe: Recipe) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, BOS, EOS, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=recipe.context,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _pretrain(
    tokenizer: Any, texts: list[str], recipe: Recipe, report: Callable[[int, int, float], None]
) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

    # One thread: the same sums in the same order, and no fight over the other core.
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            initializer_range=recipe.initializer_range,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    encoded = tokenizer(texts)["input_ids"]
    stream = torch.tensor([token for ids in encoded for token in [*ids, tokenizer.eos_token_id]])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup, recipe.steps)
    offsets = torch.arange(recipe.length)
    model.train()
    for step in range(1, recipe.steps + 1):
        starts = torch.randint(len(stream) - recipe.length, (recipe.batch, 1))
        batch = stream[starts + offsets]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(step, recipe.steps, loss.item())
    return model.eval()
