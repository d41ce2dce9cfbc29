"""The MLflow tracker: finds runs, and checks the server; mlflow_registry.py registers versions.

Runs are found by the tags that the runner sets (kubetune.api.run.plan), so that submission needs no
call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.foreign import version_in
from kubetune.api.run import evaluation_plan, plan
from kubetune.clients.addresses import segment
from kubetune.clients.egress import OPEN, Egress
from kubetune.clients.permission import always
from kubetune.tracking.base import (
    RunTest,
    StorageCheck,
    TrackedRun,
    TrackingError,
)
from kubetune.tracking.mlflow_answers import (
    experiment_id_of,
    readable,
    runs_of,
    tag_is,
)
from kubetune.tracking.mlflow_registry import MAX_FOUND, MAX_PAGES, MlflowRegistry
from kubetune.tracking.rest import Credentials, MlflowError, RestClient
from kubetune.tracking.values import best_evaluation

PAGE_SIZES = (200, 20, 1)
"""Runs on a page: the next ones are tried where a page is larger than what is read."""
PROXY_SCHEME = "mlflow-artifacts"


class MlflowTracker(MlflowRegistry):
    """One MLflow server with one set of credentials; see kubetune.tracking.base.Tracker."""

    def __init__(
        self,
        uri: str,
        credentials: Credentials | None = None,
        ca_pem: str | None = None,
        timeout_seconds: float = 5.0,
        egress: Egress = OPEN,
        may_write: Callable[[], bool] = always,
    ) -> None:
        super().__init__(RestClient(uri, credentials, ca_pem, timeout_seconds, egress, may_write))
        self._experiment_ids: dict[str, str] = {}

    async def close(self) -> None:
        """Take back what was made twice, and close the connections."""
        await self.take_back()
        await self._rest.close()

    # --- the server

    @readable
    async def server_version(self) -> str:
        """Version of the server; also proves that it answers and accepts the credentials."""
        # Some servers tell their version to everybody, so ask for something else too.
        await self._rest.call("POST", "experiments/search", {"max_results": 1})
        version = version_in(await self._rest.text("GET", "/version", retry=True))
        if version is None:
            raise TrackingError(
                f"{self._rest.shown_uri} tells no version as an MLflow server does; check the"
                " address"
            )
        return version

    @readable
    async def check_storage(self, experiment: str | None = None) -> StorageCheck:
        """Write, read and delete one small artifact.

        It goes next to the experiment's runs when there is one of that name, as rights are given
        by experiment; else next to those of the default experiment.
        """
        location = await self._artifact_location(experiment)
        parts = urlsplit(location)
        if parts.scheme != PROXY_SCHEME:
            return StorageCheck(
                None,
                f"Runs write artifacts to {_scheme(parts.scheme)} directly, not through the server;"
                " only they can tell whether it works.",
            )
        # The folder "models" would be taken for a logged model's.
        folder = [part for part in parts.path.split("/") if part]
        parts_of_path = [*folder, f"kubetune-check-{secrets.token_hex(4)}.txt"]
        path = "/".join(segment(part) for part in parts_of_path)
        url = f"/api/2.0/mlflow-artifacts/artifacts/{path}"
        content = secrets.token_hex(8)
        try:
            await self._rest.text("PUT", url, data=content.encode())
            read = await self._rest.text("GET", url, retry=True)
            await self._rest.text("DELETE", url)
        except MlflowError as error:
            if error.credentials and not await self._experiment_id(experiment or ""):
                return StorageCheck(
                    None,
                    "Rights for artifacts are given by experiment, and the one that runs use does"
                    " not exist yet; only they can tell whether it works.",
                )
            return StorageCheck(False, f"An artifact can't be written and read: {error}")
        if read != content:
            return StorageCheck(False, "An artifact did not come back as it was written.")
        return StorageCheck(True, "Artifacts can be written, read and deleted.")

    # --- runs

    @readable
    async def running(self, install_id: str, experiments: Sequence[str]) -> list[TrackedRun]:
        """All runs of this installation that are RUNNING in the experiments (by name)."""
        found: list[TrackedRun] = []
        ids = [await self._experiment_id(name) for name in dict.fromkeys(experiments)]
        known = [experiment_id for experiment_id in ids if experiment_id]
        if known:
            condition = f"attributes.status = 'RUNNING' and {tag_is(plan.TAG_INSTALL, install_id)}"
            found = await self._search_runs(known, condition)
        if not found:
            # An experiment may have been deleted and made again under another id.
            self._experiment_ids.clear()
        return found

    @readable
    async def find_run(self, run_key: str, experiment: str) -> TrackedRun | None:
        """The run of a key, in any state; the oldest if there should be two."""
        experiment_id = await self._experiment_id(experiment)
        if not experiment_id:
            return None
        runs = await self._search_runs([experiment_id], tag_is(plan.TAG_RUN_KEY, run_key))
        if not runs:
            self._experiment_ids.pop(experiment, None)
        return runs[-1] if runs else None

    @readable
    async def find_evaluation(
        self, digest: str, experiment: str, believed: RunTest
    ) -> TrackedRun | None:
        """The newest run of an evaluation with this digest that has measured all, else most."""
        experiment_id = await self._experiment_id(experiment)
        if not experiment_id:
            return None
        condition = tag_is(evaluation_plan.TAG_EVALUATION_DIGEST, digest)
        runs = await self._search_runs([experiment_id], condition)
        return best_evaluation(runs, believed)

    @readable
    async def tag_run(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """Set tags of a run, all or none."""
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        await self._rest.call("POST", "runs/log-batch", {"run_id": run.run_id, "tags": listed})

    # --- searches

    async def _search_runs(self, experiment_ids: list[str], condition: str) -> list[TrackedRun]:
        """Matching runs, newest first, over all pages."""
        runs: list[TrackedRun] = []
        sizes = iter(PAGE_SIZES)
        body: JsonObject = {
            "experiment_ids": experiment_ids,
            "filter": condition,
            "max_results": next(sizes),
            "run_view_type": "ACTIVE_ONLY",
            "order_by": ["attributes.start_time DESC"],
        }
        for _ in range(MAX_PAGES):
            try:
                answer = await self._rest.call("POST", "runs/search", body)
            except TrackingError as error:
                smaller = next(sizes, None)
                if error.reason != Reason.ANSWER_REFUSED or smaller is None:
                    raise
                body["max_results"] = smaller
                continue
            runs += runs_of(answer)
            if not answer.get("next_page_token"):
                return runs
            if len(runs) > MAX_FOUND:
                break
            body = {**body, "page_token": answer["next_page_token"]}
        raise self._endless("runs")

    async def _experiment_id(self, name: str) -> str | None:
        """The id of an experiment; None while it doesn't exist. Only ids are remembered."""
        if name not in self._experiment_ids:
            experiment = await self._experiment(name)
            if experiment is None:
                return None
            self._experiment_ids[name] = experiment_id_of(experiment)
        return self._experiment_ids[name]

    async def _experiment(self, name: str) -> JsonObject | None:
        if not name:
            return None
        try:
            answer = await self._rest.call(
                "GET", "experiments/get-by-name", query={"experiment_name": name}
            )
        except MlflowError as error:
            if error.missing:
                return None
            raise
        experiment = answer["experiment"]
        return None if experiment.get("lifecycle_stage") == "deleted" else experiment

    async def _artifact_location(self, experiment: str | None) -> str:
        found = await self._experiment(experiment or "")
        if found is None:
            answer = await self._rest.call("POST", "experiments/search", {"max_results": 1})
            found = next(iter(answer.get("experiments", ())), None)
        # Without any experiment in sight the proxy's root is all that is left to try.
        return found["artifact_location"] if found else f"{PROXY_SCHEME}:/"


def _scheme(given: str) -> str:
    return given if given.isascii() and given.isalnum() and len(given) < 20 else "a folder"
