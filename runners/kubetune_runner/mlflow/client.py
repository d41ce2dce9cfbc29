"""MLflow's client, with care for servers and plugins that can less than today's MLflow.

Inside a workspace of Cloudera Machine Learning the tracking server is ``cml://``, served by a
plugin that was written for an older MLflow: it keeps no logged models, its searches may not
filter, and calls fail now and then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kubetune.api.run.plan import TAG_RUN_KEY

from kubetune_runner.errors import RunError
from kubetune_runner.retrying import repeated

ENV_REGISTRY_URI = "MLFLOW_REGISTRY_URI"
PAGE_RUNS = 500
PAUSES_SECONDS = (1.0, 3.0, 9.0)
"""Between tries of a call that failed for a reason that may pass."""

# What a server means by these doesn't change when it is asked again.
_FINAL_CODES = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "BAD_REQUEST",
    "NOT_FOUND",
}
_UNSUPPORTED_CODES = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED"}
# What a plugin raises that has no class of its own for it; an answer cut short is a ValueError.
_ANY_ERROR = (Exception, RuntimeError, ValueError, KeyError)

T = TypeVar("T")

log = logging.getLogger(__name__)


def connect(uri: str) -> Any:
    """A client of the tracking server, which becomes MLflow's default in this process.

    Raises RunError TrackingUnsupported where no plugin knows the address' scheme.
    """
    # Two quick tries instead of minutes in one call: who calls has its own patience.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # The folder that a run starts in says nothing about its model.
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    import mlflow
    from mlflow.tracking import MlflowClient
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    mlflow.set_tracking_uri(uri)
    if in_workspace(uri) and not os.environ.get(ENV_REGISTRY_URI):
        mlflow.set_registry_uri(uri)
    try:
        return retried(lambda: MlflowClient(uri))
    except UnsupportedModelRegistryStoreURIException as error:
        raise RunError(
            "TrackingUnsupported",
            f"MLflow doesn't know the tracking server {uri}: the workspace's MLflow plugin isn't"
            " in this runtime; use one of the workspace's own runtimes or an image made from one,"
            " or spec.tracking of type mlflow in the compute target",
        ) from error


def in_workspace(uri: str) -> bool:
    """Whether the address is that of a CML workspace's own tracking server."""
    return urlsplit(uri).scheme == "cml"


def is_unsupported(error: BaseException) -> bool:
    """Whether the server, or its plugin, lacks what was asked for."""
    # A plugin for another MLflow has other methods and arguments.
    if isinstance(error, (NotImplementedError, AttributeError, TypeError)):
        return True
    return getattr(error, "error_code", None) in _UNSUPPORTED_CODES


def is_elsewhere(error: BaseException) -> bool:
    """Whether a server or the way to it is to blame, so that waiting may help.

    Artifact stores raise the errors of their own client libraries, and plugins any; so what counts
    as local are the errors that Python itself has for it, also where MLflow has wrapped them.
    """
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return True
    if isinstance(error, MlflowException):
        cause = error.__cause__ or error.__context__
        return is_elsewhere(cause) if cause else error.error_code != "INVALID_PARAMETER_VALUE"
    if type(error).__module__ != "builtins":
        return True
    return isinstance(error, ConnectionError | TimeoutError) or type(error) in _ANY_ERROR


def retried(call: Callable[[], T]) -> T:
    """The call's result; tried again after a pause where that may help."""
    return repeated(
        call,
        may_pass=_may_pass,
        pause=lambda _, tries: PAUSES_SECONDS[tries - 1],
        attempts=len(PAUSES_SECONDS) + 1,
        tell=lambda error, seconds: log.warning(
            "MLflow: trying again in %.0f s: %s", seconds, first_line(error)
        ),
    )


def _may_pass(error: BaseException) -> bool:
    final = getattr(error, "error_code", None) in _FINAL_CODES
    return isinstance(error, Exception) and not (
        final or isinstance(error, ImportError) or is_unsupported(error)
    )


def experiment_id(client: Any, name: str) -> str:
    """Id of the experiment, created where it is missing. Raises RunError ExperimentDeleted."""
    found = _experiment(client, name)
    if found is None:
        try:
            found = client.create_experiment(name)
        except Exception:
            # Another run may have made it in between; servers differ in how they say so.
            found = _experiment(client, name)
            if found is None:
                raise
    if in_workspace(client.tracking_uri):
        import mlflow

        # The plugin reads and writes runs of the active experiment only.
        mlflow.set_experiment(name)
    return found


def _experiment(client: Any, name: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        return None
    if found is None:
        return None
    if getattr(found, "lifecycle_stage", None) == "deleted":
        # Its name stays taken, and no run is taken in.
        raise RunError(
            "ExperimentDeleted",
            f"experiment {name} was deleted in MLflow, which takes no runs for it: restore it"
            f" (mlflow experiments restore -x {found.experiment_id}), or set another"
            " spec.tracking.experiment in the compute target",
        )
    return str(found.experiment_id)


def find_run(client: Any, experiment: str, run_key: str) -> Any | None:
    """The oldest run with the run key."""
    try:
        found = client.search_runs(
            [experiment],
            f"tags.`{TAG_RUN_KEY}` = '{run_key}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
    except Exception as error:
        refused = getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
        # Nobody knows how a workspace refuses a filter; if it is away, reading fails alike.
        if not refused and not is_unsupported(error) and not in_workspace(client.tracking_uri):
            raise
        log.info("the search by tag failed, runs are read in pages: %s", first_line(error))
        return _oldest(client, experiment, run_key)
    if found and _has_key(found[0], run_key):
        return found[0]
    # A search that ignores or loses the filter has told nothing.
    if found or in_workspace(client.tracking_uri):
        return _oldest(client, experiment, run_key)
    return None


def _oldest(client: Any, experiment: str, run_key: str) -> Any | None:
    matching = [run for run in _all_runs(client, experiment) if _has_key(run, run_key)]
    return min(matching, key=lambda run: run.info.start_time or 0, default=None)


def _all_runs(client: Any, experiment: str) -> Iterator[Any]:
    token: str | None = None
    seen: set[str | None] = set()
    # A server that hands out one token for ever must not hold the run up.
    while token not in seen:
        seen.add(token)
        page = client.search_runs([experiment], max_results=PAGE_RUNS, page_token=token)
        yield from page
        token = getattr(page, "token", None) or None


def _has_key(run: Any, run_key: str) -> bool:
    return run.data.tags.get(TAG_RUN_KEY) == run_key


def first_line(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
