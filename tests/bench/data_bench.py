"""The runner's preparation of rows beside the bare ``datasets`` library: memory, CPU and wall time.

Both read a file of JSON lines and make token ids and labels of it, in processes of their own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .report import Figure

ROWS = (10_000, 100_000, 1_000_000)
ROW_BYTES = 1000
COMPARED = 50_000
"""Rows that both prepare."""
PEAK_BUDGET = 1.2 * 1024
CPU_BUDGET = 1.1
WALL_BUDGET = 1 / 1.8
AGAIN_BUDGET = 2.0
INSPECTION_BUDGET = 250.0


def measure(say: Callable[[str], None], rows: tuple[int, ...] = ROWS) -> list[Figure]:
    """Prepare rows of more and more, and some as the library does."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="kubetune-bench-") as name:
        folder = Path(name)
        say("making a model and rows")
        _run(folder, "model")
        for count in rows:
            file = _rows(folder, count)
            say(f"{count:,} rows")
            inspected = _run(folder, "inspect", file)
            figures.append(
                Figure(
                    f"inspection of {count:,} rows",
                    inspected["peak"],
                    "MB",
                    INSPECTION_BUDGET,
                    f"{inspected['cpu']:.1f} CPU s",
                )
            )
            made = _run(folder, "runner", file, threads=2)
            note = f"{made['cpu']:.0f} CPU s, {made['wall']:.0f} s; run and two processes together"
            peak = made["peak"] + 2 * made["child"]
            figures.append(Figure(f"preparation of {count:,} rows", peak, "MB", PEAK_BUDGET, note))
            again = _run(folder, "runner", file, threads=2)
            figures.append(
                Figure(f"{count:,} rows again", again["wall"], "s", AGAIN_BUDGET, "second attempt")
            )
            file.unlink()
            file.with_suffix(".digests").unlink()
        file = _rows(folder, COMPARED)
        say(f"{COMPARED:,} rows, each way")
        bare, one = _run(folder, "bare", file), _run(folder, "runner", file, keep=False)
        two = _run(folder, "runner", file, threads=2, keep=False)
    note = f"{one['cpu']:.1f} over {bare['cpu']:.1f} CPU s"
    figures.append(Figure("CPU over datasets.map", one["cpu"] / bare["cpu"], "", CPU_BUDGET, note))
    note = f"{two['wall']:.1f} over {one['wall']:.1f} s, where two cores are free"
    figures.append(
        Figure("wall, two processes over one", two["wall"] / one["wall"], "", WALL_BUDGET, note)
    )
    note = f"{one['wall']:.1f} and {bare['wall']:.1f} s"
    figures.append(Figure("wall over datasets.map", one["wall"] / bare["wall"], "", None, note))
    return figures


def _rows(folder: Path, count: int) -> Path:
    """Tickets of about ROW_BYTES, all different."""
    chance = random.Random(1)
    letters = "etaoinshrdlu"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(4000)]
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for at in range(count):
            said = chance.choices(words, k=ROW_BYTES // 7)
            half = len(said) * 6 // 10
            row = {"prompt": f"Ticket {at}: {' '.join(said[:half])}"}
            row["completion"] = f" {' '.join(said[half:])}"
            stream.write(json.dumps(row) + "\n")
    return path


def _run(
    folder: Path, what: str, file: Path | None = None, *, threads: int = 1, keep: bool = True
) -> dict[str, Any]:
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(folder / "home" if keep else folder / f"home-{what}-{threads}"),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench.data_preparing", what, str(folder), str(file or "")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])
