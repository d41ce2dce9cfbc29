"""What a run vouches for of the tags that it gives its tracked run.

Everybody who may write to the tracking server may write tags, so those that a result depends on
come with a code each, made with a key that only the operator and the run have. It is for the case
that the run's outcome is lost: what such a tag says is then believed as the outcome would be.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping

from kubetune.api.run.evaluation_plan import TAG_EVALUATION_SUMMARY
from kubetune.api.run.plan import (
    OUTCOME_TAG,
    TAG_FILES,
    TAG_MERGED_FILES,
    TAG_MERGED_MODEL_ID,
    TAG_MERGED_MODEL_PATH,
    TAG_METRICS,
    TAG_MODEL_ID,
    TAG_MODEL_PATH,
    TAG_PHASE,
)

_CODE = ".code"
_RESULTS = frozenset(
    {
        TAG_FILES,
        TAG_MERGED_FILES,
        TAG_MODEL_ID,
        TAG_MODEL_PATH,
        TAG_MERGED_MODEL_ID,
        TAG_MERGED_MODEL_PATH,
        TAG_METRICS,
        TAG_EVALUATION_SUMMARY,
    }
)


def with_codes(report_key: str | None, tags: Mapping[str, str]) -> dict[str, str]:
    """Tags of a run with a code for each that says what its result is."""
    codes = {
        key + _CODE: _code(report_key, key, value)
        for key, value in tags.items()
        if report_key and _needs_code(key, value)
    }
    return {**tags, **codes}


def vouched(report_keys: Collection[str | None], tags: Mapping[str, str]) -> dict[str, str]:
    """Tags without those that need a code and have none made with one of the keys."""
    return {
        key: value
        for key, value in tags.items()
        if not _needs_code(key, value) or _has_code(report_keys, key, value, tags)
    }


def _needs_code(key: str, value: str) -> bool:
    if key == TAG_PHASE:
        return value == "succeeded"
    return key in _RESULTS or (key.startswith(OUTCOME_TAG) and not key.endswith(_CODE))


def _has_code(keys: Collection[str | None], key: str, value: str, tags: Mapping[str, str]) -> bool:
    given = tags.get(key + _CODE, "").encode(errors="replace")
    return any(
        hmac.compare_digest(given, _code(made, key, value).encode()) for made in keys if made
    )


def _code(report_key: str, key: str, value: str) -> str:
    text = f"{key}\n{value}".encode(errors="surrogatepass")
    return hmac.new(report_key.encode(), text, hashlib.sha256).hexdigest()
