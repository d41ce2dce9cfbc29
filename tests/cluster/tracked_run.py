"""MLflow runs as the runner would leave them, for scripted trainings that are registered."""

import time
from typing import Any

from kubetune.api.run import plan
from kubetune.api.run.vouched import with_codes
from kubetune.clients.stored_keys import SECRET, read_keys
from kubetune.tracking.trust import report_key
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import Namespace


def logged_run(uri: str, space: Namespace, job: str, **metrics: float) -> tuple[str, str]:
    """The MLflow run of a job's run key with a logged model; ids of both."""
    client: Any = MlflowClient(uri)
    name = f"kubetune-{space.namespace}"
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    install_id = space.request("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
    tags = {
        plan.TAG_RUN_KEY: space.run_key(job),
        plan.TAG_INSTALL: install_id,
        plan.TAG_PHASE: "training",
    }
    run = client.create_run(experiment, tags=tags)
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id, metrics=[Metric(key, value, now, 1) for key, value in metrics.items()]
    )
    model = client.create_logged_model(experiment, source_run_id=run.info.run_id)
    client.finalize_logged_model(model.model_id, "READY")
    return run.info.run_id, model.model_id


def vouched_tags(space: Namespace, job: str, tags: dict[str, str]) -> dict[str, str]:
    """Tags as the job's own run sets them, which alone has the key to vouch for them."""
    secret = space.request("GET", f"/api/v1/namespaces/kubetune-system/secrets/{SECRET}")
    return with_codes(report_key(read_keys(secret), space.run_key(job)), tags)
