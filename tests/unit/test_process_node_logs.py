"""Reading a shim's log: tails, times, partial lines, rotation, following."""

from pathlib import Path

import pytest
from kubetune_devcluster.node import logs


def line(number: int, text: str, flag: str = "F") -> bytes:
    return f"2026-01-01T00:00:{number:02d}.000000000Z stdout {flag} {text}\n".encode()


async def read(folder: Path, **options: object) -> str:
    parts = logs.read(folder, logs.LogOptions(**options), lambda: False)  # pyright: ignore
    return b"".join([part async for part in parts]).decode()


async def test_everything_and_tails(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"".join(line(n, f"l{n}") for n in range(5)))
    assert await read(tmp_path) == "l0\nl1\nl2\nl3\nl4\n"
    assert await read(tmp_path, tail=2) == "l3\nl4\n"
    assert await read(tmp_path, tail=0) == ""
    assert await read(tmp_path, tail=99) == "l0\nl1\nl2\nl3\nl4\n"
    assert await read(tmp_path, limit=4) == "l0\nl"
    assert await read(tmp_path, tail=1, timestamps=True) == "2026-01-01T00:00:04.000000000Z l4\n"
    assert await read(tmp_path, since="2026-01-01T00:00:03") == "l3\nl4\n"


async def test_tail_of_a_log_larger_than_a_block(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"".join(line(0, f"{n:06d}") for n in range(20_000)))
    assert await read(tmp_path, tail=2) == "019998\n019999\n"
    assert len((await read(tmp_path)).splitlines()) == 20_000


async def test_partial_lines_are_joined(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(line(1, "ab", "P") + line(1, "cd") + line(2, "end", "P"))
    assert await read(tmp_path) == "abcd\nend"


async def test_the_older_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_bytes(line(1, "a") + line(2, "b"))
    (tmp_path / "log").write_bytes(line(3, "c"))
    assert await read(tmp_path) == "a\nb\nc\n"
    assert await read(tmp_path, tail=2) == "b\nc\n"
    assert await read(tmp_path, tail=1) == "c\n"


async def test_following_goes_on_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(1, "a"))
    steps = iter(
        [
            lambda: path.rename(tmp_path / "log.1"),
            lambda: path.write_bytes(line(2, "b")),
            lambda: None,
        ]
    )

    def running() -> bool:
        step = next(steps, None)
        if step:
            step()
        return step is not None

    parts = logs.read(tmp_path, logs.LogOptions(follow=True), running)
    assert b"".join([part async for part in parts]) == b"a\nb\n"


def test_last_text_is_bounded(tmp_path: Path) -> None:
    assert logs.last_text(tmp_path, 5, 100) == ""
    (tmp_path / "log").write_bytes(b"".join(line(n, f"l{n}") for n in range(9)))
    assert logs.last_text(tmp_path, 2, 100) == "l7\nl8\n"
    assert logs.last_text(tmp_path, 9, 3) == "l8\n"


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        logs.LogOptions.parse({"tailLines": "many"})
