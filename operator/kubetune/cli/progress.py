"""Progress on the terminal: a live list where there is one, plain lines elsewhere (CI logs)."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

Report = Callable[[str, str], None]

PLAIN_INTERVAL = 10  # seconds between lines about the same subject, unless it changes its verb


@contextmanager
def progress() -> Generator[Report]:
    """A function ``report(subject, text)``; the newest text of each subject is shown."""
    with _live() if sys.stderr.isatty() else _plain() as report:
        yield report


@contextmanager
def _plain() -> Generator[Report]:
    started = time.monotonic()
    shown: dict[str, tuple[str, float]] = {}

    def report(subject: str, text: str) -> None:
        now = time.monotonic()
        verb = text.split(":")[0]
        last_verb, last_time = shown.get(subject, ("", 0.0))
        if verb != last_verb or (":" in text and now - last_time >= PLAIN_INTERVAL):
            shown[subject] = (verb, now)
            print(f"{now - started:6.1f} s  {subject}: {text}", file=sys.stderr, flush=True)

    yield report


@contextmanager
def _live() -> Generator[Report]:
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    started = time.monotonic()
    subjects: dict[str, str] = {}
    ended: dict[str, float] = {}
    spinner = Spinner("dots")

    def render() -> Table:
        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        for subject, text in list(subjects.items()):  # reports come from other threads
            done = subject in ended
            mark = Text("✓", style="green") if done else spinner
            seconds = ended.get(subject, now) - started
            table.add_row(mark, subject, Text(text, style="dim"), f"{seconds:.1f} s")
        return table

    def report(subject: str, text: str) -> None:
        subjects[subject] = text
        if text in ("ready", "stopped"):
            ended.setdefault(subject, time.monotonic())
        else:
            ended.pop(subject, None)

    console = Console(stderr=True)
    with Live(get_renderable=render, console=console, refresh_per_second=8):
        yield report
