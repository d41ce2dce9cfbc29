"""Rows that repeat, leak from training into the held-out ones, are empty or very long.

Only digests are kept, so that an inspection of many rows fits into a small pod: 24 bytes a row
besides those of the reading, and sets of a part of them while they are compared. It needs no
package that a runtime without the training packages lacks. No text of a row leaves the run;
problems name rows by number.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from kubetune.api.kinds.inspection import Problem, RowChecks
from kubetune.api.kinds.prompt_template.spec import as_text
from kubetune.api.rows import FORMAT_ROLES, DatasetFormat
from kubetune.api.run.plan import DatasetPlan

from kubetune_runner.data.findings import Findings, quote
from kubetune_runner.data.preferences import pair_of
from kubetune_runner.data.readers import Row
from kubetune_runner.data.reading import Reading, digest_of
from kubetune_runner.data.splits import HASH_BYTES
from kubetune_runner.data.spoken import spoken_of
from kubetune_runner.data.turns import turn_of, turns_fault
from kubetune_runner.data.verdicts import fault_of
from kubetune_runner.inspection.tokens import KnownTokenizer
from kubetune_runner.text.shown import Render, hidden_in

NAMED_ROWS = 10
"""Rows that a problem names; the rest is counted."""
LONG_TOKENS = 8192
"""Where the context length of the tokenizer's model isn't known."""
CHARACTERS_PER_TOKEN = 4
_NO_PROMPT = 0
_PART_KEYS = 250_000


class RowCheck:
    """Sees each row once, in the order of the reading."""

    def __init__(
        self,
        plan: DatasetPlan,
        render: Render | None = None,
        tokenizer: KnownTokenizer | None = None,
    ) -> None:
        """``render`` makes text of chats by the chat template that is known."""
        self._render, self._tokenizer = render, tokenizer
        self._hidden, self._refused = array("Q"), array("Q")
        self._alike = array("Q")
        """Pairs whose answers differ only in what isn't shown, or in no token."""
        self._nothing = array("Q")
        """Rows of which no token is learned."""
        self._same: dict[int, int] = {}
        """Keys of rows that are trained as one without an end token is."""
        self._parts: dict[str, None] = {}
        self._refusal = ""
        self._format: DatasetFormat = plan.format
        self._mapping = plan.columns
        self._prompts = array("Q")

    def add(self, row: Row) -> None:
        """Note the row's prompt, and what its text wouldn't have."""
        if fault_of(row, self._format, self._mapping) is None:
            self._look(row)
        self._prompts.append(self._prompt(row))

    def _look(self, row: Row) -> None:
        at = len(self._prompts)
        spoken = spoken_of(row, self._format, self._mapping)
        parts: Sequence[str] = spoken.unread
        texts: list[str] = []
        if self._render is not None and spoken.chats:
            try:
                parts = hidden_in(spoken, self._render)
                texts = [self._render(chat.messages, chat.tools) for chat in spoken.chats]
            except ValueError as error:
                self._refused.append(at)
                self._refusal = self._refusal or str(error)
                return
        if parts:
            self._hidden.append(at)
            self._parts |= dict.fromkeys(parts)
        if self._format == "preference" and self._is_alike(row, texts):
            self._alike.append(at)
        if self._tokenizer is not None:
            self._look_at_tokens(at, row, self._tokenizer)

    def _is_alike(self, row: Row, texts: list[str]) -> bool:
        """Whether a pair's answers are trained as the same tokens; ``texts`` are its chats."""
        if texts and len(set(texts)) < len(texts):
            return True
        if self._tokenizer is None:
            return False
        pair = pair_of(row, self._mapping)
        parts = (pair.prompt, pair.chosen, pair.rejected)
        ended = all(isinstance(part, str) for part in parts)
        if ended:
            texts = [f"{pair.prompt}{pair.chosen}", f"{pair.prompt}{pair.rejected}"]
        return len(texts) > 1 and self._tokenizer.alike(texts, ended=ended)

    def _look_at_tokens(self, at: int, row: Row, tokenizer: KnownTokenizer) -> None:
        if self._format == "messages":
            return
        if self._format == "text" and tokenizer.is_nothing(as_text(row[self._mapping.text])):
            self._nothing.append(at)
        names = [self._mapping.of(role, row) for role in FORMAT_ROLES[self._format]]
        if (open_row := tokenizer.without_end(row, names)) and (digest := digest_of(open_row)):
            self._same[at] = int.from_bytes(digest[:8], sys.byteorder)

    def finish(self, reading: Reading, lengths: array[int], limit: int, unit: str) -> RowChecks:
        """Compare all rows; ``lengths`` are theirs in order, ``limit`` says which are long.

        What is found is noted among the reading's problems too.
        """
        train = reading.train
        prompts = self._prompts
        keys = _keys(train.hashes)
        train_at = array("Q", (at for at, held in enumerate(reading.held_out) if not held))
        held_at = array("Q", (at for at, held in enumerate(reading.held_out) if held))
        if reading.evaluation:
            keys.extend(_keys(reading.evaluation.hashes))
            held_at = array("Q", range(train.count, len(keys)))
        for at, key in self._same.items():
            keys[at] = key
        notes = _Notes(reading)

        repeated = _repeats(keys, train_at) + _repeats(keys, held_at)
        leaked = _shared(keys, train_at, held_at)
        also = set(leaked)
        prompts_leaked = [
            at
            for at in _shared(prompts, train_at, held_at)
            if prompts[at] != _NO_PROMPT and at not in also
        ]
        long = [at for at, length in enumerate(lengths) if length > limit]

        notes.add(leaked, "also train; remove them from one of the two splits")
        notes.add(
            prompts_leaked,
            "have a prompt that also trains, with another answer; keep a prompt in one split",
        )
        notes.add(repeated, "repeat an earlier row of their split; remove them")
        notes.add(long, f"have more than {limit:,} {unit}; training cuts at maxLength")
        notes.add(
            self._hidden,
            f"have parts that their training text doesn't show ({', '.join(self._parts)})",
        )
        notes.add(
            self._alike,
            "have answers that training sees alike, so they are left out",
        )
        notes.add(self._nothing, "have no token that the model could learn, so they are left out")
        notes.add(
            self._refused, f"the chat template refuses ({self._refusal}), where a job would end"
        )
        left_out = {*self._alike, *self._nothing} & set(train_at)
        return RowChecks.model_validate(
            {
                "duplicateRows": len(repeated),
                "leakedRows": len(leaked),
                "leakedPrompts": len(prompts_leaked),
                "emptyRows": reading.empty + len(self._nothing),
                "unusableRows": reading.unusable + len(self._alike),
                "trainableRows": reading.trainable - len(left_out),
                "hiddenPartRows": len(self._hidden),
                "longRows": len(long),
                "longLimit": limit,
            }
        )

    def _prompt(self, row: Row) -> int:
        """A digest of what the answer follows from; rows without one have none to leak."""
        mapping = self._mapping
        if self._format == "text":
            return _NO_PROMPT
        if self._format == "messages":
            turns: Any = row.get(mapping.of("messages", row))
            read = [] if turns_fault(turns) else [turn_of(turn) for turn in turns]
            last = max(
                (at for at, turn in enumerate(read) if turn["role"] == "assistant"), default=0
            )
            prompt: Any = read[:last]
        else:
            prompt = row.get(mapping.prompt)
        if not prompt:
            return _NO_PROMPT
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
        digest = hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1


class _Notes:
    """Problems that name rows by file and number."""

    def __init__(self, reading: Reading) -> None:
        self._splits = [split for split in (reading.train, reading.evaluation) if split]
        self._findings: Findings = reading.findings

    def add(self, rows: Sequence[int], what: str) -> None:
        found = sorted(rows)
        if not found:
            return
        file, number = self._place(found[0])
        named = ", ".join(self._name(at, file) for at in found[:NAMED_ROWS])
        more = f" and {len(found) - NAMED_ROWS:,} more" if len(found) > NAMED_ROWS else ""
        message = f"rows that {what}: {len(found):,}, namely {named}{more}"
        self._findings.note(Problem(file=file, row=number, message=_cut(message)))

    def _name(self, at: int, near: str) -> str:
        file, number = self._place(at)
        return f"row {number:,}" if file == near else f"row {number:,} of {quote(file)}"

    def _place(self, at: int) -> tuple[str, int]:
        for split in self._splits:
            if at < split.count:
                return split.place(at)
            at -= split.count
        raise IndexError(at)


def _keys(hashes: bytearray) -> array[int]:
    """The first 8 bytes of each digest: among 10 million rows two share them once in 300,000."""
    words = array("Q")
    words.frombytes(hashes)
    return words[:: HASH_BYTES // words.itemsize]


def _parts(keys: array[int]) -> range:
    """Keys are compared in parts, by their last bits: sets take ten times as much as arrays."""
    return range(1 + len(keys) // _PART_KEYS)


def _repeats(keys: array[int], rows: array[int]) -> list[int]:
    """The rows whose key has stood in an earlier one."""
    found: list[int] = []
    parts = _parts(keys)
    for part in parts:
        seen: set[int] = set()
        for at in rows:
            key = keys[at]
            if key % len(parts) == part:
                if key in seen:
                    found.append(at)
                seen.add(key)
    return sorted(found)


def _shared(keys: array[int], train: array[int], held_out: array[int]) -> list[int]:
    """The rows that are held out and have a key of one that trains."""
    found: list[int] = []
    parts = _parts(keys)
    for part in parts:
        trained = {key for key in (keys[at] for at in train) if key % len(parts) == part}
        found += [at for at in held_out if keys[at] in trained]
    return sorted(found)


def _cut(text: str) -> str:
    return text if len(text) <= 512 else f"{text[:511]}…"
