"""``python -m kubetune_runner.tokenized.child <descriptor>``: tokenizes units until told no more.

It ends when whoever started it does, since the connection ends then.
"""

from __future__ import annotations

import logging
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kubetune.api.run.plan import RunPlan

from kubetune_runner.errors import RunError


def main(descriptor: int) -> None:
    """Answer each unit: its parts, Failed, or None where the tokenizer needs torch."""
    from kubetune_runner.tokenized.processes import Failed, Work

    connection: Connection[Any, Any] = Connection(descriptor)
    work: Work = connection.recv()
    plan = RunPlan.model_validate(work.plan)
    if not plan.model.trust_remote_code:
        # transformers imports torch where it finds it, and a tokenizer needs none.
        sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
    from kubetune_runner.data.stored import open_batches, rows_of
    from kubetune_runner.model.loading import load_tokenizer
    from kubetune_runner.tokenized.encoders import encoder_of
    from kubetune_runner.tokenized.units import Unit, encode_unit

    failed: Failed | None = None
    tokenizer: Any = None
    try:
        tokenizer = load_tokenizer(plan.model, Path(work.tokenizer), plan.training.tokenizer)
    except RunError as error:
        failed = Failed.of(error)
    except ImportError:
        logging.getLogger(__name__).info("the tokenizer needs torch")
    encoder, batches = encoder_of(plan), open_batches(work.rows)
    while True:
        unit: Unit = connection.recv()
        if failed is not None or tokenizer is None:
            connection.send(failed)
            continue
        rows = rows_of(batches.get_batch(unit.batch))
        try:
            connection.send(encode_unit(unit, rows, plan, encoder, tokenizer, work.columns))
        except RunError as error:
            connection.send(Failed.of(error))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, ConnectionError):
        # The run is over, or has what it wants.
        sys.exit(0)
