"""Which split of the source trains, which is held out, and which rows when there is only one."""

from __future__ import annotations

import hashlib
import random
import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from kubetune.api.kinds.dataset.spec import Splits

from kubetune_runner.data.findings import listing, quote
from kubetune_runner.errors import RunError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_ALIASES = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
    "eval": TEST,
    "evaluation": TEST,
}
_WORDS = re.compile(r"[-._ ]|\d+")

HASH_BYTES = 32


def split_in_name(name: str) -> str | None:
    """The split that a file or folder name speaks of, by the Hub's conventions.

    ``train-00000-of-00002.parquet`` is train, ``my_dev.csv`` validation, ``trainer.csv`` none.
    """
    found = [_ALIASES[word] for word in _WORDS.split(name.lower()) if word in _ALIASES]
    return found[-1] if found else None


def same_split(name: str) -> str:
    """The common name of a split: ``dev`` is ``validation``."""
    return _ALIASES.get(name.lower(), name)


@dataclass(frozen=True)
class SplitChoice:
    """Splits of the source; without ``evaluation`` a share of ``train`` is held out."""

    train: str
    evaluation: str | None

    @property
    def names(self) -> list[str]:
        return [self.train] + ([self.evaluation] if self.evaluation else [])


def choose_splits(wanted: Splits, existing: list[str]) -> SplitChoice:
    """Apply the rules of ``spec.splits``.

    Raises RunError SplitNotFound or SplitAmbiguous, naming the splits that exist.
    """
    if wanted.train:
        train = _find("train", wanted.train, existing)
    elif TRAIN in existing:
        train = TRAIN
    elif len(existing) == 1:
        train = existing[0]
    else:
        raise RunError(
            "SplitAmbiguous",
            f"the source has the splits {listing(existing)} and none is called train; set"
            " spec.splits.train",
        )
    if wanted.evaluation:
        evaluation = _find("evaluation", wanted.evaluation, existing)
        if evaluation == train:
            raise RunError(
                "SplitNotFound",
                f"spec.splits.evaluation names {quote(train)}, which trains already; name"
                " another split, or leave it out and a share of the rows is held out",
            )
    else:
        others = [name for name in (VALIDATION, TEST) if name in existing and name != train]
        evaluation = others[0] if others else None
    return SplitChoice(train, evaluation)


def _find(field: str, name: str, existing: list[str]) -> str:
    for candidate in (name, same_split(name)):
        if candidate in existing:
            return candidate
    raise RunError(
        "SplitNotFound",
        f"spec.splits.{field}: the source has no split {quote(name)}; it has {listing(existing)}",
    )


def some(count: int, most: int | None, seed: int) -> Sequence[int]:
    """Numbers of at most ``most`` of ``count`` rows, in order; the same for equal seeds."""
    if most is None or count <= most:
        return range(count)
    chance = random.Random(seed)  # noqa: S311 - not a secret
    return sorted(chance.sample(range(count), most))


def hold_out(hashes: bytes | bytearray, splits: Splits) -> bytearray:
    """Choose held-out rows by content: one byte a row, 1 where it is held out.

    ``hashes`` are the rows' sha256 digests one after the other. The choice depends on the seed
    and the rows alone, not on their order or files. Equal rows stay on one side, so a few
    more or fewer than ``splits`` ask for may be held out; at least one row trains, and of two or
    more different rows at least one is held out unless the fraction is 0.
    """
    count = len(hashes) // HASH_BYTES
    chosen = bytearray(count)
    if splits.evaluation_fraction == 0:
        return chosen
    wanted = min(max(splits.held_out_of(count), 1), count - 1)
    if wanted < 1:
        return chosen
    salt = f"kubetune split {splits.seed}:".encode()
    # As numbers in an array, a tenth of what objects take.
    keys = array(
        "Q",
        (
            int.from_bytes(hashlib.sha256(salt + hashes[at : at + HASH_BYTES]).digest()[:8], "big")
            for at in range(0, len(hashes), HASH_BYTES)
        ),
    )
    ordered = sorted(keys)
    # All rows below the border; where equal rows lie across it, they go together to the side
    # that needs the smaller step, and never all rows to the held-out side.
    border = ordered[wanted]
    below = bisect_left(ordered, border)
    above = below + keys.count(border)
    include_border = below == 0 or (above < count and above - wanted < wanted - below)
    if include_border and above == count:
        return chosen
    for at, key in enumerate(keys):
        chosen[at] = key < border or (include_border and key == border)
    return chosen
