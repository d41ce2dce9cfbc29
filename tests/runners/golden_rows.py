"""Rows of every format and policy as token ids, and a digest of what becomes of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubetune_runner.sample.tickets import tickets

Row = dict[str, Any]

OWN: dict[str, Row] = {
    "dpo": {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0},
    "kto": {"beta": 0.1, "lossType": "kto", "desirableWeight": 1.0, "undesirableWeight": 1.0},
    "reward": {},
}
PLAIN = (
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
MERGES = ["h e", "t he", "Ġ the", "i n", "in g", "e r", "o n", "Ġ a", "r e"]


def write_tokenizer(model: Path, folder: Path) -> None:
    """A model with a tokenizer of bytes and a few merges: the same with each version of Python."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [(first, second) for first, second in map(str.split, MERGES)]
    words += [first + second for first, second in merges]
    made: Any = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    wrapped.chat_template = PLAIN
    folder.mkdir()
    for path in model.iterdir():
        if "token" not in path.name and "template" not in path.name:
            (folder / path.name).symlink_to(path)
    wrapped.save_pretrained(folder)


def texts(count: int) -> list[Row]:
    """Prompts and answers: short, long, empty, of other types, and with parts that merge."""
    rows = tickets(count)
    chance = random.Random(3)
    odd: list[Row] = [
        {"prompt": "t", "completion": "he"},
        {"prompt": "", "completion": "the thing"},
        {"prompt": "no answer", "completion": " "},
        {"prompt": "a number", "completion": 12.50},
        {"prompt": "ünïcode 😀\u2028", "completion": "żółć", "id": None},
        {"prompt": "a list", "completion": ["x"]},
        {"completion": "without a prompt"},
        {"prompt": "long " * 60, "completion": "answer"},
        {"prompt": "a long", "completion": " answer" * 60},
        {"prompt": "with a system", "completion": "said", "system": "Be brief."},
    ]
    rows += odd * 3
    chance.shuffle(rows)
    return [row | {"number": at} for at, row in enumerate(rows)]


def chats(count: int) -> list[Row]:
    """Chats of one and several turns, some with weights, systems or nothing to learn."""
    rows: list[Row] = []
    for at, row in enumerate(tickets(count)):
        turns = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        if at % 3 == 0:
            turns = [{"role": "system", "content": "Be the help desk."}, *turns]
        if at % 4 == 0:
            said = {"role": "assistant", "content": f"Answer {at}", "weight": at % 8 // 4}
            turns += [{"role": "user", "content": "And then?"}, said]
        if at % 11 == 10:
            turns = turns[:-1]
        rows.append({"messages": turns})
    return rows


def pairs(count: int) -> list[Row]:
    """Two answers each; some alike, some long, some of chats."""
    rows: list[Row] = []
    for at, row in enumerate(tickets(count)):
        pair = {"prompt": row["prompt"], "chosen": row["completion"], "rejected": " No idea."}
        if at % 7 == 6:
            pair["rejected"] = pair["chosen"]
        if at % 9 == 8:
            pair["chosen"] = " a long answer" * 40
        if at % 10 == 9:
            del pair["prompt"]
        rows.append(pair)
    return rows


def rated(count: int) -> list[Row]:
    """Answers that are good or not."""
    rows: list[Row] = [
        {"prompt": row["prompt"], "completion": row["completion"], "label": at % 3 > 0}
        for at, row in enumerate(tickets(count))
    ]
    return [*rows, {"prompt": "long " * 60, "completion": "x", "label": True}, {"prompt": "p"}]


def cases() -> Iterator[tuple[str, list[Row], Row]]:
    """Name, rows, and what is laid over the plan."""
    short = {"hyperparameters": {"maxLength": 120}}
    for policy in ("truncate", "drop"):
        yield f"texts, {policy}", texts(80), {"training": short | {"longRows": policy}}
    template = {"prompt": "Q{number}: {prompt}\n", "completion": "{completion}"}
    yield "by a template", texts(40), {"prompt": template}
    turns = [{"role": "user", "content": "{prompt}"}, {"role": "assistant", "content": "{number}"}]
    yield "by a template of turns", texts(40), {"prompt": {"messages": turns}}
    share = {"dataFraction": 0.4, "dataSeed": 7}
    yield "a share", texts(80), {"training": share}
    yield "plain texts", texts(40), {"dataset": {"format": "text", "columns": {"text": "prompt"}}}
    chat = {"dataset": {"format": "messages"}}
    yield "chats", chats(60), chat
    yield "chats, cut", chats(60), chat | {"training": {"hyperparameters": {"maxLength": 60}}}
    for objective in ("dpo", "reward"):
        training = {"objective": objective, objective: OWN[objective]} | short
        yield objective, pairs(60), {"dataset": {"format": "preference"}, "training": training}
    training = {"objective": "kto", "kto": OWN["kto"]} | short
    yield "kto", rated(60), {"dataset": {"format": "unpairedPreference"}, "training": training}


def digest(inputs: Any, table: Any = None) -> str:
    """Over all that training and evaluation read, and over the counts."""
    learned = ("input_ids", "labels", "chosen_ids", "rejected_ids", "completion_ids", "label")
    train = [
        {name: value for name, value in vars(row).items() if name in learned}
        for row in inputs.train.rows
    ]
    held_out = [vars(row) for row in inputs.evaluation.rows]
    counts = [inputs.train.counts(), inputs.evaluation.counts(), inputs.chat]
    batches = [] if table is None else table.to_dict()
    text = json.dumps([train, held_out, counts, batches], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
