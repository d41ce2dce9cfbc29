"""Tokenizers of the kinds that architectures come with, trained on the spot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kubetune_runner.sample.tickets import tickets

SIZE = 400
WORD_PIECE = r".*bert.*|electra|ernie|roformer|big_bird|roc_bert|rembert"
UNIGRAM = (
    r"llama|gemma.*|mistral|mixtral|xlm-roberta.*|xglm|m?bart|camembert|pegasus|reformer|xlnet"
    r"|plbart|marian|recurrent_gemma|vaultgemma|deepseek.*|minicpm.*|phi3|internlm.*"
)


def kind_of(architecture: str) -> str:
    """Which kind of tokenizer an architecture is known for."""
    if re.fullmatch(WORD_PIECE, architecture):
        return "WordPiece"
    return "Unigram" if re.fullmatch(UNIGRAM, architecture) else "byte-level BPE"


def make(architecture: str, folder: Path) -> Any:
    """Train a tokenizer and save it."""
    from transformers import PreTrainedTokenizerFast

    texts = [f"{row['prompt']} {row['completion']}" for row in tickets(64)]
    makers = {"WordPiece": _word_piece, "Unigram": _unigram, "byte-level BPE": _bytes}
    tokenizer, special = makers[kind_of(architecture)](texts)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **special)
    fast.save_pretrained(folder)
    return fast


def _bytes(texts: list[str]) -> tuple[Any, dict[str, str]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"pad_token": "<|pad|>", "eos_token": "<|endoftext|>"}
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer, special


def _unigram(texts: list[str]) -> tuple[Any, dict[str, str]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE,
        special_tokens=list(special.values()),
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer, special


def _word_piece(texts: list[str]) -> tuple[Any, dict[str, str]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    }
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=numbers
    )
    return tokenizer, special
