"""Tables of token ids on disk: made once of a dataset, a tokenizer and what decides on its rows,
and found again by later attempts, other runs and other workers.

``encoders`` makes token ids of rows, ``table`` keeps them, ``making`` goes through all rows with
the help of ``processes``, and ``store`` is where tables stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.run.plan import RunPlan

from kubetune_runner import data
from kubetune_runner.stages import UNWATCHED, Watch
from kubetune_runner.text.encoding import EncodedRows
from kubetune_runner.tokenized import keys
from kubetune_runner.tokenized.encoders import encoder_of
from kubetune_runner.tokenized.making import Made, file_of, make
from kubetune_runner.tokenized.store import Store
from kubetune_runner.tokenized.table import TokenTable
from kubetune_runner.tokenized.units import HELD_OUT, MEASURED, TRAIN

SIZES = 6
"""Bytes of tables and what else is written for each byte of rows, at most."""


@dataclass(frozen=True)
class Tokenized:
    """The rows of a training as token ids."""

    train: EncodedRows[Any]
    evaluation: EncodedRows[Any]
    """All that are held out."""
    measured: EncodedRows[Any]
    """Those of them that a loss is computed on."""
    chat: bool
    rows: int
    """Rows that were chosen to train, whether they are used or not."""


def tokenize(
    plan: RunPlan,
    token: str | None,
    tokenizer_folder: Path,
    tokenizer: Callable[[], Any],
    watch: Watch = UNWATCHED,
) -> Tokenized:
    """The rows of both splits as token ids: those that are kept, else read and made.

    ``tokenizer`` gives the one that is loaded, when it is needed. Raises RunError as ``data.load``,
    ``data.check_unchanged`` and ``making.make`` do.
    """
    # What code of others makes of rows may be something else each time.
    store = Store(None) if plan.model.trust_remote_code else Store.of_environment()
    loaded: data.LoadedDataset | None = None
    digests = plan.dataset.digest, plan.dataset.split_digest
    if None in digests:
        loaded = _load(plan, token, watch)
        digests = loaded.digest, loaded.split_digest
    key = keys.key_of(plan, digests, tokenizer_folder)

    def write(folder: Path) -> Made:
        rows = loaded or _load(plan, token, watch)
        store.make_room(SIZES * rows.train.stored.size)
        return make(rows, plan, folder, tokenizer_folder, tokenizer, watch)

    entry = store.get(key, write)
    encoder = encoder_of(plan)

    def split(name: str) -> EncodedRows[Any]:
        table: TokenTable[Any] = TokenTable(entry.folder / file_of(name), encoder, entry.keep)
        return EncodedRows(**vars(entry.made.counts[name]), rows=table)

    held_out = split(HELD_OUT)
    measured = held_out if entry.made.all_measured else split(MEASURED)
    return Tokenized(split(TRAIN), held_out, measured, entry.made.chat, entry.made.rows)


def _load(plan: RunPlan, token: str | None, watch: Watch) -> data.LoadedDataset:
    loaded = data.load(plan.dataset, token, watch)
    data.check_unchanged(plan.dataset, loaded)
    return loaded
