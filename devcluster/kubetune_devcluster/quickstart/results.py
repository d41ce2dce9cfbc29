"""What a quickstart shows at its end: metrics, generations and the registered version."""

from __future__ import annotations

import json
from dataclasses import dataclass

from kubetune.api.training.objectives import baseline_name

from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.quickstart.start import Object

SAMPLES_FILE = "samples.json"
_ORDER = ("exactMatch", "tokenF1", "evalLoss", "perplexity")


@dataclass(frozen=True)
class Comparison:
    """One metric on held-out rows, of the untrained and of the trained model."""

    metric: str
    before: str
    after: str


def comparisons(job: Object) -> list[Comparison]:
    """The metrics that were measured both before and after, best known ones first."""
    metrics: dict[str, str] = job["status"]["result"].get("metrics") or {}
    found = [
        Comparison(name, metrics[baseline_name(name)], after)
        for name, after in metrics.items()
        if baseline_name(name) in metrics
    ]
    known = [name for name in _ORDER if name in metrics]
    return sorted(found, key=lambda c: known.index(c.metric) if c.metric in known else len(known))


def samples(cluster: LocalCluster, job: Object) -> list[dict[str, str]]:
    """Generations on held-out rows with keys prompt, reference, base and tuned; [] without any."""
    run = (job["status"].get("mlflow") or {}).get("runId")
    url = f"{cluster.mlflow_url}/get-artifact?path={SAMPLES_FILE}&run_uuid={run}"
    status, body = cluster.client().get(url)
    return json.loads(body) if status == 200 else []


def links(cluster: LocalCluster, job: Object) -> dict[str, str]:
    """Pages of the MLflow server about this job."""
    pages = {"MLflow run": (job["status"].get("mlflow") or {}).get("url", "")}
    if registered := job["status"]["result"].get("registered"):
        name, version = registered["name"], registered["version"]
        pages["Registered version"] = f"{cluster.mlflow_url}/#/models/{name}/versions/{version}"
    return {title: page for title, page in pages.items() if page}
