"""Whether what a run would be given is opened to kubetune by those whom it belongs to.

Whoever may write FineTuneJobs needn't have any right on the Secrets and claims beside them. So each
is used only for what its owner, or the target's admin, says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.allowed import USE_LABEL, ClaimUse, SecretUse, Use
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.run.plan import ENV_JUDGE_KEY
from kubetune.api.schema.base import SecretKeyRef
from kubetune.decide.resources import Resource
from kubetune.decide.sources import Mounts
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunRequest

SECRET, CLAIM, ACCOUNT = "Secret", "PersistentVolumeClaim", "ServiceAccount"
SEPARATOR = "."
KNOWN_USES = {*get_args(SecretUse), *get_args(ClaimUse)}
_MISSING = {
    SECRET: Reason.SECRET_MISSING,
    CLAIM: Reason.CLAIM_MISSING,
    ACCOUNT: Reason.SERVICE_ACCOUNT_MISSING,
}


class Wanted(NamedTuple):
    """A Secret, claim or service account that a spec names, and what for."""

    kind: str
    name: str
    use: Use
    key: str = ""
    """Of a Secret, where one is named."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one."""

    labels: Mapping[str, str]
    keys: frozenset[str] | None = None
    """Keys of a Secret's data, once it may be read."""


@dataclass(frozen=True)
class Lacking:
    """What a run, or the operator, would need and may not have, or not yet."""

    reason: Reason
    message: str


def of_target(target: ComputeTargetSpec | None) -> list[Wanted]:
    """What the operator itself uses for a target; runs may, too."""
    if target is None:
        return []
    named = target.tracking.credentials_secret_ref
    found = [Wanted(SECRET, named.name, "tracking")] if named else []
    access = target.block.access_secrets if target.block else ()
    return found + [Wanted(SECRET, name, "target", key) for name, key in access]


def of_sources(
    target: ComputeTargetSpec | None, *resources: Resource[Any, Any] | None
) -> list[Wanted]:
    """What runs on the target read Datasets and Models with."""
    sources = [each.spec.source for each in resources if each and each.spec]
    tokens = [source.token for source in sources if source.token]
    claims = [source.volume.claim_name for source in sources if source.volume]
    return _tokens(target, tokens, "hub") + _claims(target, claims, "data")


def of_judges(target: ComputeTargetSpec | None, keys: Iterable[SecretKeyRef]) -> list[Wanted]:
    """What runs on the target send to judges."""
    return _tokens(target, keys, "judge")


def of_mounts(target: ComputeTargetSpec | None, given: Mounts | RunRequest) -> list[Wanted]:
    """What a run on the target reads its sources with, and sends to judges."""
    judges = [ref for name, ref in given.tokens.items() if name.startswith(ENV_JUDGE_KEY)]
    hubs = [ref for name, ref in given.tokens.items() if not name.startswith(ENV_JUDGE_KEY)]
    data = (given.dataset_claim, given.model_claim, given.base_model_claim)
    found = _tokens(target, judges, "judge") + _tokens(target, hubs, "hub")
    return found + _claims(target, data, "data")


def of_request(request: RunRequest) -> list[Wanted]:
    """Everything that a run is given."""
    target, block = request.target, request.target.block
    found = of_target(target) + of_mounts(target, request)
    found += _claims(target, (request.checkpoint_claim,), "checkpoint")
    if block is None:
        return found
    found += [Wanted(SECRET, name, "target", key) for name, key in block.run_secrets]
    found += [Wanted(CLAIM, name, "target") for name in block.run_claims]
    if block.run_account:
        found.append(Wanted(ACCOUNT, block.run_account, "target"))
    return found


def is_listed(wanted: Wanted, target: ComputeTargetSpec | None) -> bool:
    """Whether the target's admin lets it be used for this."""
    listed = target.allowed if target else None
    return listed is not None and listed.has(wanted.kind, wanted.name, wanted.use)


def is_open(wanted: Wanted, seen: Seen, target: ComputeTargetSpec | None) -> bool:
    """Whether its owner, or the target's admin, lets it be used for this."""
    return wanted.use in seen.labels.get(USE_LABEL, "").split(SEPARATOR) or is_listed(
        wanted, target
    )


def missing(wanted: Wanted, namespace: str) -> Lacking:
    """It isn't there."""
    message = f"waiting for {wanted.kind} {wanted.name} in namespace {namespace}"
    return Lacking(_MISSING[wanted.kind], message)


def key_missing(wanted: Wanted, namespace: str) -> Lacking:
    """A Secret is there, without the key."""
    message = f"waiting for key {wanted.key} in Secret {wanted.name} in namespace {namespace}"
    return Lacking(Reason.SECRET_MISSING, message)


def unreadable(wanted: Wanted, namespace: str, why: str) -> Lacking:
    """Nobody can tell whether it is opened."""
    return Lacking(
        Reason.CONSENT_MISSING,
        f"whether {wanted.kind} {wanted.name} in namespace {namespace} may be used can't be seen:"
        f" {why}",
    )


def not_open(wanted: Wanted, namespace: str, seen: Seen) -> Lacking:
    """Its owner hasn't opened it for this; how to do that, as a command."""
    given = seen.labels.get(USE_LABEL)
    uses = [use for use in (given or "").split(SEPARATOR) if use in KNOWN_USES]
    value = SEPARATOR.join([*dict.fromkeys(uses), wanted.use])
    overwrite = "" if given is None else " --overwrite"
    listing = {SECRET: "spec.allowed.secrets", CLAIM: "spec.allowed.claims"}.get(wanted.kind)
    admin = f", or the target's admin lists it in {listing} of the target" if listing else ""
    return Lacking(
        Reason.CONSENT_MISSING,
        f"{wanted.kind} {wanted.name} in namespace {namespace} isn't opened to kubetune for use"
        f" {wanted.use}. Its owner opens it: kubectl label {wanted.kind.lower()} {wanted.name}"
        f" -n {namespace} {USE_LABEL}={value}{overwrite}{admin}",
    )


def _tokens(
    target: ComputeTargetSpec | None, references: Iterable[SecretKeyRef], use: Use
) -> list[Wanted]:
    if not facts_of(target).carries_secrets:
        return []
    return [Wanted(SECRET, each.name, use, each.key) for each in references]


def _claims(
    target: ComputeTargetSpec | None, names: Iterable[str | None], use: Use
) -> list[Wanted]:
    if not facts_of(target).mounts_claims:
        return []
    return [Wanted(CLAIM, name, use) for name in names if name]
