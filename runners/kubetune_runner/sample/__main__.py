"""Command line of the sample: ``python -m kubetune_runner.sample --help``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from kubetune_runner.sample.tickets import write_tickets


def main() -> int:
    """Make the sample model or the sample tickets."""
    parser = argparse.ArgumentParser(prog="python -m kubetune_runner.sample")
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="pretrain the small model, once")
    model.add_argument("directory", type=Path)
    model.add_argument("--size", choices=("quickstart", "test"), default="quickstart")
    model.add_argument("--steps", type=int, help="optimizer steps, instead of the size's own")
    rows = commands.add_parser("tickets", help="write support tickets as JSON lines")
    rows.add_argument("file", type=Path)
    rows.add_argument("--rows", type=int, default=1200)
    rows.add_argument("--held-out", action="store_true", help="tickets that training never sees")
    rows.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    if arguments.command == "tickets":
        try:
            write_tickets(
                arguments.file, arguments.rows, held_out=arguments.held_out, seed=arguments.seed
            )
        except ValueError as error:
            parser.error(str(error))
        return 0
    from kubetune_runner.sample.model import RECIPES, make_model

    recipe = RECIPES[arguments.size]
    if arguments.steps:
        recipe = replace(recipe, steps=arguments.steps)
    make_model(arguments.directory, recipe, _show)
    return 0


def _show(step: int, steps: int, loss: float) -> None:
    """One line that rewrites itself on a terminal, and a line now and then elsewhere."""
    text = f"pretraining the sample model: step {step}/{steps}, loss {loss:.2f}"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}" + ("\n" if step == steps else ""))
    elif step % 20 == 0 or step == steps:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
