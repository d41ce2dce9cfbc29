"""The environment of a run's container: plan, caches, tracking credentials, hub tokens.

Used by ``manifests.py``. No secret value passes through here: the kubelet reads the Secrets that
are named.
"""

from __future__ import annotations

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.targets.quantities import whole_cpus
from kubetune.targets.values import RunRequest

OWN_PREFIX = "KUBETUNE_"
CREDENTIAL_VARIABLES = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
"""Variables of MLflow's client; keys of the credentials Secret have the same names."""


def environment(request: RunRequest, job: str, ca_file: str | None) -> list[JsonObject]:
    """Entries for ``env``: kubetune's own, then the target's, which can't replace ours.

    ``job`` is the Job's name.
    """
    target = request.target.kubernetes
    own = [
        *_values(request, ca_file),
        *(_rendezvous(request, job) if request.workers > 1 else ()),
        *_credentials(request),
        *_tokens(request),
    ]
    taken = {entry["name"] for entry in own}
    given = (variable.to_json() for variable in (target.env if target else None) or ())
    return own + [
        entry
        for entry in given
        if entry["name"] not in taken and not entry["name"].startswith(OWN_PREFIX)
    ]


def _values(request: RunRequest, ca_file: str | None) -> list[JsonObject]:
    values = {
        plan.ENV_PLAN: plan.PLAN_FILE,
        plan.ENV_ATTEMPT: str(request.attempt),
        plan.ENV_RUN_KEY: request.run_key,
        "HOME": plan.WORK_DIRECTORY,
        "TMPDIR": "/tmp",  # noqa: S108 - the container's own
        "HF_HOME": plan.CACHE_DIRECTORY,
        # Threads beyond the CPU limit are throttled and make a run slower.
        "OMP_NUM_THREADS": str(max(1, whole_cpus(request.resources.cpu) // request.processes)),
        "MLFLOW_TRACKING_URI": request.target.tracking.run_uri,
    }
    if request.resources.gpu:
        values[plan.ENV_GPUS] = str(request.resources.gpu)
    if request.batch:
        values[plan.ENV_BATCH] = request.batch.variable
    if names := request.target.code_variables:
        values[plan.ENV_CODE_VARIABLES] = ",".join(names)
    if ca_file:
        # Not SSL_CERT_FILE or REQUESTS_CA_BUNDLE: they would replace the public authorities, and
        # no hub or dataset address could be read any more.
        values["MLFLOW_TRACKING_SERVER_CERT_PATH"] = ca_file
    return [{"name": name, "value": value} for name, value in values.items()]


def _rendezvous(request: RunRequest, job: str) -> list[JsonObject]:
    """Which worker this is, and where the first one waits for the others."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    host = f"{job}-0.{names.service_name(request.run_key)}"
    port = names.rendezvous_port(request.run_key, request.attempt)
    return [
        {"name": plan.ENV_WORKER, "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": plan.ENV_RENDEZVOUS, "value": f"{host}:{port}"},
    ]


def _credentials(request: RunRequest) -> list[JsonObject]:
    secret = request.target.tracking.credentials_secret_ref
    if secret is None:
        return []
    # Optional, as a Secret has either the pair or the token.
    return [
        {
            "name": name,
            "valueFrom": {"secretKeyRef": {"name": secret.name, "key": name, "optional": True}},
        }
        for name in CREDENTIAL_VARIABLES
    ]


def _tokens(request: RunRequest) -> list[JsonObject]:
    return [
        {"name": name, "valueFrom": {"secretKeyRef": reference.to_json()}}
        for name, reference in sorted(request.tokens.items())
    ]
