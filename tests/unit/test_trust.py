"""Who is believed: everything in a tracking server can be forged by whoever may write there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from kubetune.api.conditions import Reason
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.api.run.plan import (
    TAG_JOB,
    TAG_LINEAGE,
    TAG_METRICS,
    TAG_MODEL_ID,
    TAG_NAMESPACE,
    TAG_PHASE,
    TAG_RUN_KEY,
    TAG_SIGNATURE,
)
from kubetune.api.run.vouched import vouched, with_codes
from kubetune.keys import Keyring
from kubetune.tracking.base import RegisteredVersion, TrackedRun
from kubetune.tracking.trust import (
    SIGNED_TAGS,
    Trust,
    own_words,
    report_key,
    signed_measurement,
    signed_version,
)

OLD, NEW = ("1", b"a" * 32), ("2", b"b" * 32)
RING = Keyring((OLD,))
TAGS = {
    TAG_RUN_KEY: "key",
    TAG_NAMESPACE: "team-a",
    TAG_JOB: "tune",
    TAG_LINEAGE: "sha256:1",
    TAG_METRICS: '{"eval_loss": 0.5}',
    "kubetune.datasetDigest": "sha256:2",
}
VERSION = RegisteredVersion("support", 3, "run-1", "models:/m-1", "READY")
MEASURED = {
    TAG_NAMESPACE: "team-a",
    TAG_EVALUATION_DIGEST: "sha256:3",
    TAG_EVALUATION_SUMMARY: '{"metrics": {}}',
}


def registered(keys: Keyring = RING, **tags: str) -> RegisteredVersion:
    return replace(VERSION, tags=signed_version(keys, VERSION, TAGS | tags))


def measured(keys: Keyring = RING) -> TrackedRun:
    return TrackedRun("k", "1", "run-1", "FINISHED", signed_measurement(keys, "run-1", MEASURED))


def test_what_the_operator_has_registered_and_measured_is_believed() -> None:
    trust = Trust(RING, "team-a")
    assert trust.version(registered())
    assert trust.measurement(measured())
    assert trust.doubts == []
    # Further tags, as of people, change nothing of it.
    assert trust.version(replace(registered(), tags=registered().tags | {"owner": "me"}))


VERSION_FORGERIES: dict[str, Callable[[RegisteredVersion], RegisteredVersion]] = {
    "copied to another version": lambda v: replace(v, version=4),
    "copied to another name": lambda v: replace(v, name="other"),
    "another model behind it": lambda v: replace(v, source="models:/m-2"),
    "of another run": lambda v: replace(v, run_id="run-2"),
    "cut": lambda v: replace(v, tags=v.tags | {TAG_SIGNATURE: v.tags[TAG_SIGNATURE][:10]}),
    "huge": lambda v: replace(v, tags=v.tags | {TAG_SIGNATURE: "a" * 1_000_000}),
    "no text": lambda v: replace(v, tags=v.tags | {TAG_SIGNATURE: "\ud800" * 32}),
    "of a measurement": lambda v: replace(
        v, tags=v.tags | {TAG_SIGNATURE: measured().tags[TAG_SIGNATURE]}
    ),
    **{
        f"{key} is {how}": lambda v, key=key, value=value: replace(v, tags=v.tags | {key: value})
        for key in SIGNED_TAGS
        for how, value in (("changed", "other"), ("huge", "x" * 100_000))
    },
}


@pytest.mark.parametrize("forge", VERSION_FORGERIES.values(), ids=VERSION_FORGERIES)
def test_a_version_that_is_none_of_ours(
    forge: Callable[[RegisteredVersion], RegisteredVersion],
) -> None:
    trust = Trust(RING, "team-a", ("other",))
    assert not trust.version(forge(registered()))
    (doubt,) = trust.doubts
    assert doubt.reason == Reason.SIGNATURE_INVALID
    assert len(doubt.message) < 500


@pytest.mark.parametrize(
    "change",
    [
        {TAG_EVALUATION_DIGEST: "sha256:4"},
        {TAG_EVALUATION_SUMMARY: '{"metrics": {"loss": {"value": 0}}}'},
        {TAG_NAMESPACE: "team-b"},
    ],
)
def test_a_measurement_that_is_none_of_ours(change: dict[str, str]) -> None:
    trust = Trust(RING, "team-a", ("team-b",))
    run = measured()
    assert not trust.measurement(replace(run, tags=run.tags | change))
    assert not trust.measurement(replace(run, run_id="run-2"))
    assert {doubt.reason for doubt in trust.doubts} == {Reason.SIGNATURE_INVALID}


def test_what_was_made_before_there_were_signatures() -> None:
    trust = Trust(RING, "team-a")
    assert not trust.version(replace(VERSION, tags=TAGS))
    assert not trust.measurement(replace(measured(), tags=MEASURED))
    assert {doubt.reason for doubt in trust.doubts} == {Reason.SIGNATURE_MISSING}


def test_other_namespaces_are_believed_where_the_admin_says_so() -> None:
    trust = Trust(RING, "team-b")
    assert not trust.version(registered())
    assert not trust.measurement(measured())
    assert {doubt.reason for doubt in trust.doubts} == {Reason.NAMESPACE_NOT_TRUSTED}
    assert "namespace team-a" in trust.doubts[0].message
    assert Trust(RING, "team-b", ("team-a",)).version(registered())
    assert Trust(RING, "team-b", ("team-a",)).measurement(measured())


def test_keys_are_changed_with_both_for_a_while() -> None:
    both, newer = Keyring((OLD, NEW)), Keyring((NEW,))
    for keys in (RING, both):
        assert Trust(both, "team-a").version(registered(keys))
    assert Trust(newer, "team-a").version(registered(both)), "new ones are made with the newest"
    assert not Trust(newer, "team-a").version(registered(RING))
    # A run that was started before vouches with what it was given.
    run = TrackedRun("key", "1", "r", "FINISHED", with_codes(report_key(RING, "key"), DONE))
    assert own_words(both, run) == run


DONE = {TAG_MODEL_ID: "m-1", TAG_PHASE: "succeeded", "kubetune.outcome.1": "{}"}


def test_a_run_vouches_for_its_own_result() -> None:
    key = report_key(RING, "key")
    told = with_codes(key, {**DONE, TAG_LINEAGE: "sha256:1"})
    run = TrackedRun("key", "1", "r", "FINISHED", told)
    assert own_words(RING, run) == run
    forged = replace(run, tags=told | {TAG_MODEL_ID: "m-2", "kubetune.outcome.2": "{}"})
    kept = own_words(RING, forged).tags
    assert TAG_MODEL_ID not in kept
    assert "kubetune.outcome.2" not in kept
    assert kept[TAG_PHASE] == "succeeded"
    assert kept[TAG_LINEAGE] == "sha256:1"
    # Another run's tags and codes.
    assert TAG_MODEL_ID not in own_words(RING, replace(run, run_key="other")).tags
    # Without a key nobody vouches for anything.
    assert with_codes(None, DONE) == DONE
    assert vouched((None, ""), with_codes("", DONE)) == {}
    running = {TAG_PHASE: "training"}
    assert vouched((key,), running) == running
