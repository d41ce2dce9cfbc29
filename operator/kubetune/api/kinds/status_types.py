"""A status as the JSON that it is, for the type checker: the stub next to this has the types.

The stub is generated from the status models by ``make generate``. At run time each of its types is
a plain dict, so that they cost nothing.
"""

from __future__ import annotations

from typing import Any

from kubetune.api import JsonObject


def status_of(body: JsonObject) -> Any:
    """The status of an object, where JSON becomes a status of its kind's type.

    It may be trusted to have the fields of its model, in the right types: only what fits the
    schema of the CRD gets through the API server, which drops what isn't in it. An operator of
    another version has kept to the schema too. A field that a newer one has added is not seen, and
    what an older one could not yet write is absent, as all may be that the schema doesn't require.
    """
    return body.get("status") or {}


def __getattr__(name: str) -> type[dict[str, object]]:
    if name.endswith("Dict"):
        return dict
    raise AttributeError(f"module {__name__} has no attribute {name}")
