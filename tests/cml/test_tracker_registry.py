"""Registration in a workspace against the simulator: one version for one run on every bad day."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from kubetune.api.run import plan
from kubetune.clients.cml_models import CreateRegisteredModelRequest
from kubetune.clients.cml_operations import CREATE_REGISTERED_MODEL
from kubetune.tracking.base import RegisteredVersion, Registration, TrackingError
from kubetune.tracking.cml import CmlTracker
from kubetune.tracking.cml_values import tags_about, version_tag
from kubetune_devcluster.cml.server import Simulator

from tests.believing import anybodys
from tests.cml.tracked import Experiment, tags_of_version, tracking

pytestmark = pytest.mark.usefixtures("cmlapi_path")

UNFOUNDED = "not known yet"


async def registered(tracker: CmlTracker, registration: Registration) -> RegisteredVersion:
    """Register as the operator does: again and again while the outcome isn't known."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await tracker.register(registration)
            except TrackingError as error:
                if UNFOUNDED not in str(error):
                    raise
            await asyncio.sleep(0.1)


async def test_register_twice_is_one_version(experiment: Experiment, tracker: CmlTracker):
    registration = experiment.registration(await experiment.run("key-1"), alias="champion")
    first = await tracker.register(registration)
    assert await tracker.register(registration) == first
    assert (first.name, first.version, first.status) == ("tickets", 1, "READY")
    assert (first.run_id, first.source) == (registration.run_id, registration.source)
    assert first.aliases == (), "the registry has none"
    assert registration.tags.items() <= first.tags.items()
    (version,) = await experiment.versions()
    assert "champion" in version.notes
    assert tags_of_version(version)["kubetune.alias"] == "champion"


async def test_each_run_is_a_version_of_its_own(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    simulator.behaviour.page_size_limit = 2
    for number in range(1, 6):
        registration = experiment.registration(await experiment.run(f"key-{number}"))
        assert (await tracker.register(registration)).version == number
    again = experiment.registration(await experiment.run("key-6"), name="tickets-2")
    assert (await tracker.register(again)).version == 1
    assert await experiment.numbers() == [1, 2, 3, 4, 5]


async def test_a_name_in_any_script_is_compared_exactly(
    experiment: Experiment, tracker: CmlTracker
):
    for name in ("größe", "größe-2", "模型", "it's"):
        run_id = await experiment.run(f"key-{name}")
        assert (await tracker.register(experiment.registration(run_id, name))).version == 1
        assert await experiment.numbers(name) == [1]


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 504, "html": True}, {"close": True}], ids=str
)
@pytest.mark.parametrize("lose_tags", [False, True])
async def test_a_lost_answer_is_looked_up(
    simulator: Simulator,
    experiment: Experiment,
    tracker: CmlTracker,
    fault: dict[str, Any],
    lose_tags: bool,
):
    simulator.behaviour.lose_tags = lose_tags
    registration = experiment.registration(await experiment.run("key-1"))
    simulator.faults.add("create_registered_model", when="after", **fault)
    assert (await tracker.register(registration)).version == 1
    assert await experiment.numbers() == [1]
    assert simulator.count("create_registered_model") == 1


async def test_an_operator_that_is_restarted_after_the_create_finds_the_version(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    registration = experiment.registration(await experiment.run("key-1"))
    fault = simulator.faults.add("create_registered_model", when="after", hang=30)
    dying = asyncio.create_task(tracker.register(registration))
    async with asyncio.timeout(30):
        while not await experiment.numbers():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    simulator.faults.remove(fault)
    async with tracking(simulator) as next_one:
        assert (await next_one.register(registration)).version == 1
    assert await experiment.numbers() == [1]


async def test_what_does_not_show_is_sent_again_only_after_a_while(
    simulator: Simulator, experiment: Experiment
):
    """Also by an operator that was started in between, which knows it from the run."""
    registration = experiment.registration(await experiment.run("key-1"))
    simulator.faults.add("create_registered_model", status=500)
    async with tracking(simulator, settle_seconds=3600) as tracker:
        # Gives up looking before the test's patience ends; the outcome stays unknown.
        with pytest.raises(TrackingError, match=UNFOUNDED):
            await tracker.register(registration)
        with pytest.raises(TrackingError, match=UNFOUNDED):
            await tracker.register(registration)
    async with tracking(simulator, settle_seconds=3600) as restarted:
        with pytest.raises(TrackingError, match=UNFOUNDED):
            await restarted.register(registration)
    assert simulator.count("create_registered_model") == 1
    async with tracking(simulator, settle_seconds=0.5) as patient:
        assert (await registered(patient, registration)).version == 1
    assert await experiment.numbers() == [1]


async def test_a_refused_create_needs_no_wait(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    registration = experiment.registration(await experiment.run("key-1"))
    simulator.faults.add("create_registered_model", status=400, message="not today")
    with pytest.raises(TrackingError, match="not today"):
        await tracker.register(registration)
    assert (await tracker.register(registration)).version == 1


async def test_throttled_calls_change_nothing(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    registration = experiment.registration(await experiment.run("key-1"))
    for operation in ("create_registered_model", "log_experiment_run_batch"):
        simulator.faults.add(operation, status=429, headers={"Retry-After": "0"})
        with pytest.raises(TrackingError, match="429"):
            await tracker.register(registration)
    assert (await tracker.register(registration)).version == 1
    assert await experiment.numbers() == [1]


async def test_operators_that_register_at_once_leave_one_version(
    simulator: Simulator, experiment: Experiment
):
    registration = experiment.registration(await experiment.run("key-2"))
    async with tracking(simulator) as before:
        await before.register(experiment.registration(await experiment.run("key-1")))
    # Both have looked before either has written down that it creates.
    simulator.faults.add("log_experiment_run_batch", times=2, hang=1.0)
    async with tracking(simulator) as one, tracking(simulator) as other:
        results = await asyncio.gather(one.register(registration), other.register(registration))
        assert simulator.count("create_registered_model") == 3, "both have created"
        assert {result.version for result in results} == {2}
        assert (await one.register(registration)).version == 2
    assert await experiment.numbers() == [1, 2]


async def test_a_conflict_with_somebody_who_was_faster_is_no_error(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    registration = experiment.registration(await experiment.run("key-1"))
    simulator.faults.add("create_registered_model", when="after", status=409)
    assert (await tracker.register(registration)).version == 1
    assert await experiment.numbers() == [1]


async def test_a_version_that_others_made_of_the_run_is_left_alone(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    run_id = await experiment.run("key-1")
    body = CreateRegisteredModelRequest(
        project_id=simulator.project.id,
        experiment_id=experiment.id,
        run_id=run_id,
        model_path="model",
        model_name="tickets",
    )
    for _ in range(2):
        await experiment.client.write(CREATE_REGISTERED_MODEL, body=body)
    assert (await tracker.register(experiment.registration(run_id))).version == 1
    assert await experiment.numbers() == [1, 2]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_may_not_register_is_told_with_the_way_out(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker, status: int
):
    registration = experiment.registration(await experiment.run("key-1"))
    simulator.faults.add("create_registered_model", status=status)
    with pytest.raises(TrackingError, match=r"right to register models.*tracking\.type") as info:
        await tracker.register(registration)
    assert info.value.credentials
    assert await experiment.numbers() == []


async def test_a_run_that_can_not_be_marked_is_registered_all_the_same(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    registration = experiment.registration(await experiment.run("key-1"))
    simulator.faults.add("log_experiment_run_batch", status=400)
    assert (await tracker.register(registration)).version == 1


async def test_a_statement_is_kept_on_the_run_in_pieces(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    """As long as a statement with many files is; the registry keeps no tags of versions."""
    simulator.behaviour.lose_tags = True
    run_id = await experiment.run("key-1")
    statement = "".join(f"{number:07d}" for number in range(3000))
    first = await tracker.register(experiment.registration(run_id))
    versions = first, replace(first, name="tickets-merged")
    for version in versions:
        tags = {plan.TAG_ATTESTATION: version.name + statement, plan.TAG_SIGNATURE: "signed"}
        await tracker.tag_version(version, experiment.id, tags)
    run = await tracker.find_run("key-1", experiment.name)
    assert run
    for version in versions:
        said = tags_about(run.tags, version.name)
        assert said[plan.TAG_ATTESTATION] == version.name + statement
        assert max(map(len, run.tags.values())) <= 4000
        assert run.tags[version_tag(plan.TAG_SIGNATURE, version.name)] == "signed"
    whole = await tracker.version(first.name, 1)
    assert whole is not None
    assert whole.source == first.source
    assert whole.tags[plan.TAG_ATTESTATION] == first.name + statement
    assert await tracker.version(first.name, 2) is None


@pytest.mark.parametrize("status", [400, 500])
async def test_a_statement_that_is_not_kept_holds_nothing_up(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker, status: int
):
    version = await tracker.register(experiment.registration(await experiment.run("key-1")))
    simulator.faults.add("log_experiment_run_batch", status=status, times=9)
    with pytest.raises(TrackingError, match=r"kubetune\.attestation can't be set") as info:
        await tracker.tag_version(version, experiment.id, {plan.TAG_ATTESTATION: "a" * 9000})
    assert info.value.refused
    # A signature is another matter: a version without one would never be adopted.
    with pytest.raises(TrackingError) as info:
        await tracker.tag_version(version, experiment.id, {plan.TAG_SIGNATURE: "a"})
    assert info.value.refused == (status == 400)


async def test_what_the_registry_can_not_take_is_told(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    run_id = await experiment.run("key-1")
    logged = Registration("tickets", None, experiment.id, run_id, "models:/m-1", {})
    with pytest.raises(TrackingError, match="models:/m-1 can't be registered in CML"):
        await tracker.register(logged)
    nowhere = Registration("tickets", None, experiment.id, "gone", "runs:/gone/model", {})
    with pytest.raises(TrackingError, match="gone") as info:
        await tracker.register(nowhere)
    assert info.value.missing
    empty = Registration("tickets", None, experiment.id, run_id, f"runs:/{run_id}/no", {})
    with pytest.raises(TrackingError, match="no MLflow model"):
        await tracker.register(empty)
    assert simulator.count("create_registered_model") == 1


@pytest.mark.parametrize("lose_tags", [False, True])
async def test_identical_versions_are_found_by_their_lineage(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker, lose_tags: bool
):
    simulator.behaviour.lose_tags = lose_tags
    simulator.behaviour.page_size_limit = 2
    assert await tracker.find_identical("tickets", "d-1", anybodys) is None
    made: list[RegisteredVersion] = []
    for number in range(1, 5):
        digest = f"d-{min(number, 3)}"
        run_id = await experiment.run(f"key-{number}", **{plan.TAG_LINEAGE: digest})
        tags = {plan.TAG_LINEAGE: digest}
        source = f"runs:/{run_id}/model"
        registration = Registration("tickets", None, experiment.id, run_id, source, tags)
        made.append(await tracker.register(registration))
    found = await tracker.find_identical("tickets", "d-3", anybodys)
    assert found
    assert (found.version, found.run_id) == (4, made[3].run_id), "the newest"
    assert await tracker.find_identical("tickets", "d-9", anybodys) is None
    assert await tracker.find_identical("ticket", "d-3", anybodys) is None
    # What was found is what registering its run again gives, without a further version.
    same = Registration("tickets", "champion", "", found.run_id, found.source, {})
    assert (await tracker.register(same)).version == 4
    assert await experiment.numbers() == [1, 2, 3, 4]
