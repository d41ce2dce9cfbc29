"""The MLflow tracker against a real MLflow server: found runs, one version, moved aliases."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from kubetune.api.run import plan
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.tracking.base import AliasMove, Registration, TrackingError
from kubetune.tracking.mlflow import MlflowTracker
from kubetune_devcluster.cluster import LocalCluster
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from tests.believing import anybodys

pytestmark = pytest.mark.cluster


class Server:
    """The server as a run sees it, by MLflow's own client."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.folder = folder
        self.name = f"tracker-{os.urandom(4).hex()}"
        self.experiment_id = self.client.create_experiment(self.name)

    def run(self, run_key: str, install: str = "install-1") -> str:
        """A run as the runner makes it; its id."""
        tags = {plan.TAG_RUN_KEY: run_key, plan.TAG_INSTALL: install}
        return self.client.create_run(self.experiment_id, tags=tags).info.run_id

    def registration(self, run_id: str, alias: str | None = "champion") -> Registration:
        """What to register for a run, after a model was logged for it."""
        (self.folder / "weights").write_text("0")
        model = self.client.create_logged_model(self.experiment_id, source_run_id=run_id)
        self.client.log_model_artifacts(model.model_id, str(self.folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        tags = {plan.TAG_LINEAGE: f"digest-{run_id}", plan.TAG_JOB: "tickets"}
        return Registration(
            self.name, alias, self.experiment_id, run_id, f"models:/{model.model_id}", tags
        )

    def artifacts(self, run_id: str, alias: str | None = "champion") -> Registration:
        """What to register for a run whose model is a folder of its artifacts."""
        (self.folder / "weights").write_text("0")
        self.client.log_artifacts(run_id, str(self.folder), "model")
        tags = {plan.TAG_LINEAGE: f"digest-{run_id}", plan.TAG_JOB: "tickets"}
        source = f"runs:/{run_id}/model"
        return Registration(self.name, alias, self.experiment_id, run_id, source, tags)

    def versions(self) -> list[int]:
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted(int(version.version) for version in found)

    def aliases(self) -> dict[str, int]:
        aliases = self.client.get_registered_model(self.name).aliases
        return {alias: int(version) for alias, version in aliases.items()}


@pytest.fixture
def server(cluster: LocalCluster, tmp_path: Path) -> Server:
    return Server(cluster.mlflow_url, tmp_path)


@pytest_asyncio.fixture
async def tracker(server: Server) -> AsyncGenerator[MlflowTracker]:
    tracker = MlflowTracker(server.uri, timeout_seconds=20)
    yield tracker
    await tracker.close()


async def test_server_and_storage(server: Server, tracker: MlflowTracker):
    assert (await tracker.server_version()).count(".") >= 2
    for experiment in (None, "no-such-experiment", server.name):
        check = await tracker.check_storage(experiment)
        assert check.writable is True, check.message


async def test_storage_beside_the_server_can_not_be_told(server: Server, tracker: MlflowTracker):
    name = f"{server.name}-s3"
    server.client.create_experiment(name, artifact_location="s3://bucket/runs")
    check = await tracker.check_storage(name)
    assert check.writable is None
    assert "s3" in check.message


async def test_running_finds_this_installations_running_runs(
    server: Server, tracker: MlflowTracker
):
    mine, done = server.run("key-1"), server.run("key-2")
    server.run("key-3", install="install-2")
    server.client.set_terminated(done)
    server.client.log_metric(mine, plan.METRIC_STEP, 3, timestamp=1000, step=3)
    server.client.log_metric(mine, plan.METRIC_STEP, 4, timestamp=2000, step=4)
    server.client.log_metric(mine, "loss", 0.0, timestamp=1500, step=4)
    server.client.set_tag(mine, plan.TAG_PHASE, "training")
    (run,) = await tracker.running("install-1", [server.name, "no-such-experiment"])
    assert (run.run_key, run.run_id, run.status) == ("key-1", mine, "RUNNING")
    assert run.metrics == {plan.METRIC_STEP: 4.0, "loss": 0.0}
    assert run.updated_ms == 2000
    assert run.tags[plan.TAG_PHASE] == "training"


async def test_an_experiment_that_appears_later_is_found(server: Server, tracker: MlflowTracker):
    name = f"{server.name}-later"
    assert await tracker.find_run("key-1", name) is None
    assert await tracker.running("install-1", [name]) == []
    server.experiment_id = server.client.create_experiment(name)
    run_id = server.run("key-1")
    (run,) = await tracker.running("install-1", [name])
    assert run.run_id == run_id
    server.client.set_terminated(run_id, "FAILED")
    found = await tracker.find_run("key-1", name)
    assert found
    assert (found.run_id, found.status) == (run_id, "FAILED")
    assert await tracker.find_run("key-2", name) is None


async def test_register_twice_is_one_version(server: Server, tracker: MlflowTracker):
    registration = server.registration(server.run("key-1"))
    first = await tracker.register(registration)
    assert await tracker.register(registration) == first
    assert (first.version, first.status, first.aliases) == (1, "READY", ("champion",))
    assert first.run_id == registration.run_id
    assert registration.tags.items() <= first.tags.items()
    assert server.versions() == [1]


async def test_artifacts_of_a_run_are_registered_once(server: Server, tracker: MlflowTracker):
    run_id = server.run("key-1")
    registration = server.artifacts(run_id)
    first = await tracker.register(registration)
    assert await tracker.register(registration) == first
    assert (first.version, first.status, first.run_id) == (1, "READY", run_id)
    assert first.source.endswith(f"/{run_id}/artifacts/model")
    assert server.versions() == [1]
    assert server.aliases() == {"champion": 1}
    stored = server.client.get_model_version_download_uri(server.name, "1")
    files = download_artifacts(stored, tracking_uri=server.uri)
    assert (Path(files) / "weights").read_text() == "0"
    # Found by lineage, and registered again by the address that the registry gives.
    digest = registration.tags[plan.TAG_LINEAGE]
    found = await tracker.find_identical(server.name, digest, anybodys)
    assert found == first
    same = Registration(server.name, "best", "", run_id, first.source, {})
    assert (await tracker.register(same)).version == 1
    assert server.aliases() == {"champion": 1, "best": 1}
    server.client.delete_run(run_id)
    assert await tracker.find_identical(server.name, digest, anybodys) is None


async def test_two_results_of_one_run_are_two_versions(server: Server, tracker: MlflowTracker):
    run_id = server.run("key-1")
    for registration in (server.registration(run_id), server.artifacts(run_id)) * 2:
        await tracker.register(registration)
    assert server.versions() == [1, 2]


async def test_operators_that_register_at_once_leave_one_version(server: Server):
    registration = server.registration(server.run("key-1"))
    operators = [MlflowTracker(server.uri, timeout_seconds=30) for _ in range(4)]
    results = await asyncio.gather(
        *(operator.register(registration) for operator in operators), return_exceptions=True
    )
    # The server may refuse one of two equal writes; the operator would come back.
    assert any(not isinstance(result, BaseException) for result in results), results
    await operators[0].register(registration)
    await asyncio.gather(*(operator.close() for operator in operators))
    assert server.versions() == [1]
    assert server.aliases() == {"champion": 1}


async def test_register_finishes_what_a_crash_left(server: Server, tracker: MlflowTracker):
    registration = server.registration(server.run("key-1"))
    server.client.create_registered_model(server.name)
    server.client.create_model_version(
        server.name,
        registration.source,
        run_id=registration.run_id,
        model_id=registration.source.removeprefix("models:/"),
    )
    found = await tracker.register(registration)
    assert found.version == 1
    assert registration.tags.items() <= found.tags.items()
    assert server.versions() == [1]
    assert server.aliases() == {"champion": 1}


async def test_the_alias_moves_forward_and_never_back(server: Server, tracker: MlflowTracker):
    old = server.registration(server.run("key-1"))
    new = server.registration(server.run("key-2"))
    await tracker.register(old)
    assert server.aliases() == {"champion": 1}
    assert (await tracker.register(new)).version == 2
    assert server.aliases() == {"champion": 2}
    assert (await tracker.register(old)).aliases == ()
    assert server.aliases() == {"champion": 2}


async def test_no_alias_is_set_unasked(server: Server, tracker: MlflowTracker):
    await tracker.register(server.registration(server.run("key-1"), alias=None))
    assert server.aliases() == {}


async def test_an_alias_moves_only_from_where_it_was_expected(
    server: Server, tracker: MlflowTracker
):
    assert await tracker.alias_holder(server.name, "champion") is None
    for key in ("key-1", "key-2"):
        await tracker.register(server.registration(server.run(key), alias=None))
    assert await tracker.alias_holder(server.name, "champion") is None
    first = AliasMove(server.name, "champion", 2, None, "kubetune.promoted.champion.uid", "{}")
    assert (await tracker.move_alias(first)).holder == 2
    # Once more, as after a crash: it stands where it should.
    assert (await tracker.move_alias(first)).holder == 2
    holder = await tracker.alias_holder(server.name, "champion")
    assert holder is not None
    assert (holder.version, holder.tags[first.tag]) == (2, "{}")
    # Judged against another version: it stays, and nothing claims that it moved.
    late = replace(first, version=1, tag="kubetune.promoted.champion.late")
    assert (await tracker.move_alias(late)).holder == 2
    back = replace(late, expected=2)
    assert late.tag not in server.client.get_model_version(server.name, "1").tags
    assert (await tracker.move_alias(back)).holder == 1
    assert server.aliases() == {"champion": 1}


async def test_complete_evaluations_are_found_by_their_digest(
    server: Server, tracker: MlflowTracker
):
    def evaluation(run_key: str, **tags: str) -> str:
        run_id = server.run(run_key)
        for key, value in {TAG_EVALUATION_DIGEST: "sha256:1", **tags}.items():
            server.client.set_tag(run_id, key, value)
        return run_id

    evaluation("begun")
    assert await tracker.find_evaluation("sha256:1", server.name, anybodys) is None
    complete = evaluation("complete", **{TAG_EVALUATION_SUMMARY: "{}"})
    evaluation("begun-later")
    found = await tracker.find_evaluation("sha256:1", server.name, anybodys)
    assert found is not None
    assert found.run_id == complete
    assert await tracker.find_evaluation("sha256:2", server.name, anybodys) is None
    assert await tracker.find_evaluation("sha256:1", "no-such-experiment", anybodys) is None


async def test_a_model_that_is_gone_is_an_error(server: Server, tracker: MlflowTracker):
    registration = Registration(
        server.name, "champion", "", server.run("key-1"), "models:/m-nothing", {}
    )
    with pytest.raises(TrackingError, match="m-nothing") as caught:
        await tracker.register(registration)
    assert caught.value.refused


async def test_what_no_retry_can_change_says_so(server: Server, tracker: MlflowTracker):
    registered = await tracker.register(server.registration(server.run("key-1")))
    reserved = server.registration(server.run("key-2"), alias="v1")
    with pytest.raises(TrackingError, match="reserved") as caught:
        await tracker.register(reserved)
    assert caught.value.refused
    server.client.delete_model_version(server.name, str(registered.version))
    move = AliasMove(server.name, "champion", registered.version, None, "kubetune.x", "{}")
    with pytest.raises(TrackingError) as caught:
        await tracker.move_alias(move)
    assert caught.value.refused


async def test_identical_versions_count_while_run_and_model_exist(
    server: Server, tracker: MlflowTracker
):
    run_id = server.run("key-1")
    registration = server.registration(run_id)
    digest = registration.tags[plan.TAG_LINEAGE]
    assert await tracker.find_identical(server.name, digest, anybodys) is None
    registered = await tracker.register(registration)
    assert await tracker.find_identical(server.name, digest, anybodys) == registered
    assert await tracker.find_identical(server.name, "another", anybodys) is None
    server.client.delete_run(run_id)
    assert await tracker.find_identical(server.name, digest, anybodys) is None
    server.client.restore_run(run_id)
    assert await tracker.find_identical(server.name, digest, anybodys) == registered
    server.client.delete_logged_model(registration.source.removeprefix("models:/"))
    assert await tracker.find_identical(server.name, digest, anybodys) is None


async def test_a_server_that_is_down_is_an_error_in_time(server: Server):
    closed = MlflowTracker("http://127.0.0.1:9", timeout_seconds=2)
    started = time.monotonic()
    for call in (
        closed.server_version(),
        closed.find_run("key", server.name),
        closed.running("install-1", [server.name]),
        closed.register(Registration("name", None, "", "run", "models:/model", {})),
    ):
        with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
            await call
    # The limit of four calls; MLflow's own client would block for minutes.
    assert time.monotonic() - started < 8
    await closed.close()


class Late:
    """Another operator registers the run when our request was allowed, and has the lease then."""

    def __init__(self, server: Server, registration: Registration) -> None:
        self._server, self._registration = server, registration
        self.asked = 0
        self.then: Callable[[], object] = lambda: None
        server.client.create_registered_model(server.name)

    def may_write(self) -> bool:
        self.asked += 1
        if self.asked > 1:
            return False
        server, given = self._server, self._registration
        model_id = given.source.removeprefix("models:/")
        server.client.create_model_version(
            server.name, given.source, given.run_id, model_id=model_id
        )
        self.then()
        return True


async def test_a_version_beside_anothers_is_removed_without_the_lease(server: Server):
    registration = server.registration(server.run("key-late"))
    late = Late(server, registration)
    tracker = MlflowTracker(server.uri, timeout_seconds=20, may_write=late.may_write)
    with pytest.raises(TrackingError, match="doesn't hold the lease"):
        await tracker.register(registration)
    assert late.asked > 1
    assert server.versions() == [1]
    await tracker.close()


async def test_a_version_that_nobody_waits_for_any_more_is_removed(server: Server):
    registration = server.registration(server.run("key-unseen"))
    late = Late(server, registration)
    tracker = MlflowTracker(server.uri, timeout_seconds=20, may_write=late.may_write)
    register = asyncio.create_task(tracker.register(registration))
    late.then = register.cancel
    with pytest.raises(asyncio.CancelledError):
        await register
    await tracker.close()
    assert server.versions() == [1]
