"""Images are made from bases that nobody can exchange: each is named by its digest."""

import re
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "images"
PINNED = re.compile(r"[a-z0-9./-]+:[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.-]*@sha256:[0-9a-f]{64}")
OWN = "${RUNNER}"
"""Of the axolotl image: the runner's, which its user has built, and can name by digest."""


def bases(text: str) -> list[str]:
    """What a Dockerfile takes from elsewhere, stages of its own left out."""
    stages = set(re.findall(r"^FROM .* AS (\S+)", text, re.MULTILINE | re.IGNORECASE))
    named = re.findall(r"^FROM (?:--\S+ )*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    named += re.findall(r"^(?:COPY|ADD) .*--from=(\S+)", text, re.MULTILINE | re.IGNORECASE)
    named += re.findall(r"--mount=\S*\bfrom=([^,\s]+)", text)
    return [name for name in named if name not in stages]


def test_each_base_is_named_by_its_digest() -> None:
    found = {path: bases(path.read_text()) for path in sorted(IMAGES.glob("*/Dockerfile*"))}
    assert len(found) == 3
    taken = [name for names in found.values() for name in names if name != OWN]
    assert len(taken) == 5
    assert [name for name in taken if not PINNED.fullmatch(name)] == []
    assert len(set(taken)) == 1, "one Python for all"


def test_what_is_taken_from_elsewhere_is_seen() -> None:
    text = """\
FROM --platform=linux/amd64 python:3 AS build
FROM build
COPY --from=ghcr.io/uv:1 /uv /uv
COPY --chown=1:1 --from=build /a /a
RUN --mount=type=bind,from=alpine:3,source=/x,target=/x true
"""
    assert bases(text) == ["python:3", "ghcr.io/uv:1", "alpine:3"]
