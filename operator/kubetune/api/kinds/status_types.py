"""A status as the JSON that it is, for the type checker: the stub beside this has the types.

The stub is generated from the status models by ``make generate``. At run time each of its types is
a plain dict, so that they cost nothing.
"""

from __future__ import annotations


def __getattr__(name: str) -> type[dict[str, object]]:
    if name.endswith("Dict"):
        return dict
    raise AttributeError(f"module {__name__} has no attribute {name}")
