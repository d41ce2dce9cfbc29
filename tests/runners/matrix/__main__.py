"""Measures the matrix anew and keeps what it finds: ``python -m tests.runners.matrix [NAME ...]``.

Without names it goes on with the architectures that aren't recorded yet; ``--again`` measures all.
``make generate`` renders the record into docs/architectures.md.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path


def main() -> int:
    """Measure; returns 1 when there are defects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures, by model type")
    parser.add_argument("--again", action="store_true", help="also those that are recorded")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from kubetune_runner.run_log import quieten

    from tests.runners.matrix import cells, record

    torch.set_num_threads(1)
    quieten()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.CRITICAL)
    rows = record.read()
    wanted = given.names or [
        kind for kind in cells.architectures() if given.again or kind not in rows
    ]
    began = time.monotonic()
    defects = 0
    for kind in wanted:
        if time.monotonic() - began > given.seconds:
            print("time is over; call again for the others")
            break
        since = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rows[kind] = cells.examine(kind, Path(folder))
        record.write(rows, transformers.__version__)
        print(f"{kind} {time.monotonic() - since:.1f} s", flush=True)
        for name, cell in rows[kind].items():
            if cell.verdict != cells.EQUAL:
                print(f"    {name}: {cell.verdict}: {cell.why}", flush=True)
            defects += cell.verdict == cells.DEFECT
        # The libraries' own objects would be gone through at each of their collections.
        gc.collect()
        gc.freeze()
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
