"""Long values that CML keeps as several tags, put together again."""

from collections.abc import Mapping


def joined(key: str, tags: Mapping[str, str]) -> str:
    """The opposite of ``cml_values.pieces``; empty where there are none."""
    found: list[str] = []
    while (part := tags.get(f"{key}.{len(found)}")) is not None:
        found.append(part)
    return "".join(found)
