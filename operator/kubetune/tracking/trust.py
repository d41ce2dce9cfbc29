"""What is believed of what a tracking server says.

Everybody who may write to the server may write any tag. So the operator signs what it registers and
what it has measured, with a key that only it has, and reuses nothing else: neither what was copied
to another version, name, run or namespace, nor what was changed afterwards. A run vouches for its
own results (kubetune.api.run.vouched).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kubetune.api.conditions import Reason
from kubetune.api.kinds.fine_tune_job.status import Lineage
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.api.run.plan import (
    TAG_FILES,
    TAG_JOB,
    TAG_LINEAGE,
    TAG_METRICS,
    TAG_NAMESPACE,
    TAG_RUN_KEY,
    TAG_SIGNATURE,
)
from kubetune.api.run.vouched import vouched
from kubetune.api.schema.base import DNS_LABEL
from kubetune.keys import Keyring
from kubetune.tracking.base import RegisteredVersion, TrackedRun

LINEAGE_TAGS = tuple(
    f"kubetune.{field.alias}" for name, field in Lineage.model_fields.items() if name != "digest"
)
"""Tags of a version with the parts of its lineage."""
SIGNED_TAGS = (
    TAG_RUN_KEY,
    TAG_NAMESPACE,
    TAG_JOB,
    TAG_LINEAGE,
    TAG_METRICS,
    TAG_FILES,
    *LINEAGE_TAGS,
)
MEASURED_TAGS = (TAG_NAMESPACE, TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY)
_VERSION, _MEASURED, _REPORT = "version", "measured", "report"


@dataclass(frozen=True)
class Doubt:
    """Why something that was found isn't believed."""

    reason: Reason
    message: str


def signed_version(
    keys: Keyring, version: RegisteredVersion, tags: Mapping[str, str]
) -> dict[str, str]:
    """The tags of a version with the operator's signature over them and over what the version is.

    ``tags`` are those that the operator has decided on, not what the server shows.
    """
    signature = keys.code(_VERSION, *_version_parts(replace(version, tags=dict(tags))))
    return {**tags, TAG_SIGNATURE: signature}


def signed_measurement(keys: Keyring, run_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """The same of a run that has measured: ``tags`` are MEASURED_TAGS."""
    return {**tags, TAG_SIGNATURE: keys.code(_MEASURED, *_measured_parts(run_id, tags))}


def report_key(keys: Keyring, run_key: str) -> str:
    """What a run vouches with for its own tags."""
    return keys.lasting_code(_REPORT, run_key)


def own_words(keys: Keyring, run: TrackedRun) -> TrackedRun:
    """The run without those tags about its result that it hasn't vouched for itself."""
    tags = vouched(keys.all_codes(_REPORT, run.run_key), run.tags)
    return run if len(tags) == len(run.tags) else replace(run, tags=tags)


class Trust:
    """What objects of a namespace believe: its own, and that of namespaces that are trusted.

    ``doubts`` has why the others were not believed, in the order in which they were found.
    """

    def __init__(self, keys: Keyring, namespace: str, others: Iterable[str] = ()) -> None:
        self._keys = keys
        self._namespaces = {namespace, *others}
        self.doubts: list[Doubt] = []

    def version(self, version: RegisteredVersion) -> bool:
        """Whether the operator has registered a version, for a namespace that is believed."""
        code = version.tags.get(TAG_SIGNATURE, "")
        valid = self._keys.verifies(code, _VERSION, *_version_parts(version))
        named = f"{version.name} version {version.version} has the same lineage and is not adopted"
        return self._believed(named, code, valid, version.tags)

    def measurement(self, run: TrackedRun) -> bool:
        """Whether the operator has taken over what a run has measured, as it says now."""
        code = run.tags.get(TAG_SIGNATURE, "")
        valid = self._keys.verifies(code, _MEASURED, *_measured_parts(run.run_id, run.tags))
        named = f"run {run.run_id} says it has measured the same and is not believed"
        return self._believed(named, code, valid, run.tags)

    def _believed(self, named: str, code: str, valid: bool, tags: Mapping[str, str]) -> bool:
        namespace = tags.get(TAG_NAMESPACE, "")
        if valid and namespace in self._namespaces:
            return True
        if valid:
            whose = namespace if re.fullmatch(DNS_LABEL, namespace) else "another"
            doubt = Doubt(
                Reason.NAMESPACE_NOT_TRUSTED,
                f"{named}: it is of namespace {whose}, which the target's admin doesn't list in"
                " spec.tracking.registry.trustedNamespaces",
            )
        elif code:
            doubt = Doubt(
                Reason.SIGNATURE_INVALID,
                f"{named}: its signature was made for something else, or what it says was changed"
                " since, or it was made with a key that Secret kubetune-keys has no more",
            )
        else:
            doubt = Doubt(
                Reason.SIGNATURE_MISSING,
                f"{named}: it has no signature, so it was made before results were signed, or by"
                " somebody else",
            )
        self.doubts.append(doubt)
        return False


def _version_parts(version: RegisteredVersion) -> tuple[str, ...]:
    of_tags = (version.tags.get(key, "") for key in SIGNED_TAGS)
    return (version.name, str(version.version), version.source, version.run_id, *of_tags)


def _measured_parts(run_id: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    return (run_id, *(tags.get(key, "") for key in MEASURED_TAGS))
