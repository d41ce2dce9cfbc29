"""Fields that have a value or ``auto``: the operator chooses the value by the job's estimate."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BeforeValidator, WithJsonSchema

AUTO = "auto"
MAX_BATCH = 65536


def _batch(value: object) -> object:
    whole = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if value == AUTO or 1 <= whole <= MAX_BATCH:
        return value
    raise ValueError(
        f"must be auto or an integer from 1 to {MAX_BATCH}, not {json.dumps(value, default=str)}"
    )


def _switch(value: object) -> object:
    if isinstance(value, bool) or value == AUTO:
        return value
    raise ValueError(f"must be auto, true or false, not {json.dumps(value, default=str)}")


BatchSize = Annotated[
    int | Literal["auto"],
    BeforeValidator(_batch),
    # The pattern is for texts, the bounds are for numbers.
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 1,
            "maximum": MAX_BATCH,
            "pattern": "^auto$",
        }
    ),
]
Switch = Annotated[
    bool | Literal["auto"],
    BeforeValidator(_switch),
    # No type is both; what has none is kept as it is.
    WithJsonSchema({"enum": [AUTO, True, False]}),
]
