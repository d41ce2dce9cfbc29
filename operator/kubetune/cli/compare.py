"""``kubetune compare``: the results of an Evaluation and its stored answers, side by side."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import click

JsonObject = dict[str, Any]


@click.command()
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--rows", "limit", type=click.IntRange(min=0), help="Most rows shown (default: all).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the local cluster, which is asked where $KUBECONFIG is not set.",
)
@click.argument("evaluation")
def compare(
    namespace: str, limit: int | None, output: str, home: Path | None, evaluation: str
) -> None:
    """Show how the candidates of an EVALUATION did, and what they answered to the same rows.

    The answers are read from MLflow: from MLFLOW_TRACKING_URI when that is set, with the
    credentials of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or of
    MLFLOW_TRACKING_TOKEN; else from where the Evaluation's status says, without any.

    \b
    Examples:
      kubetune compare tickets
      kubetune compare tickets -n team --rows 3
    """
    _find_local_cluster(home)
    try:
        body, answers, problems = asyncio.run(_read(namespace, evaluation))
    except _NotThereError as error:
        raise click.ClickException(str(error)) from None
    status: JsonObject = body.get("status") or {}
    if output == "json":
        rows = {name: [row.to_json() for row in found] for name, found in answers.items()}
        click.echo(json.dumps({"status": status, "samples": rows}, indent=2, ensure_ascii=False))
        return
    from kubetune.cli.side_by_side import samples, table, verdict

    click.echo(f"Evaluation {namespace}/{evaluation}: {verdict(status)}\n")
    click.echo(table(status))
    if answers and limit != 0:
        width = shutil.get_terminal_size().columns
        metric = body["spec"]["metrics"][0]
        click.echo("\n" + samples(answers, metric, limit, width))
    for problem in problems:
        click.echo(problem, err=True)


class _NotThereError(Exception):
    """There is no such Evaluation, or no cluster."""


def _find_local_cluster(home: Path | None) -> None:
    """Point at the local cluster when nothing else is named."""
    if os.environ.get("KUBECONFIG"):
        return
    try:
        from kubetune.local.paths import default_home
    except ModuleNotFoundError:
        return
    kubeconfig = (home or default_home()) / "kubeconfig"
    if kubeconfig.exists():
        os.environ["KUBECONFIG"] = str(kubeconfig)


async def _read(namespace: str, name: str) -> tuple[JsonObject, dict[str, Any], list[str]]:
    """The Evaluation, the stored rows by candidate, and what could not be read."""
    import aiohttp
    import kopf

    from kubetune.clients.kubernetes import ApiError, KubernetesClient

    try:
        client = KubernetesClient.connect()
    except kopf.LoginError as error:
        raise _NotThereError(str(error)) from None
    try:
        body = await client.get("Evaluation", namespace, name)
    except ApiError as error:
        raise _NotThereError(f"Evaluation {namespace}/{name}: {error}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _NotThereError(f"the cluster can't be reached: {error}") from None
    finally:
        await client.close()
    answers: dict[str, Any] = {}
    problems: list[str] = []
    for candidate in (body.get("status") or {}).get("candidates") or ():
        if candidate.get("samples"):
            try:
                answers[candidate["name"]] = await _rows(candidate["mlflow"])
            except (ValueError, KeyError) as error:
                problems.append(f"answers of {candidate['name']} can't be read: {error}")
    return body, answers, problems


async def _rows(run: JsonObject) -> list[Any]:
    """The rows of a run's artifact. Raises ValueError."""
    from kubetune.api.evaluation_plan import SAMPLES_ARTIFACT, EvaluatedRow
    from kubetune.tracking.base import TrackingError
    from kubetune.tracking.rest import Credentials, RestClient

    root, page, _ = str(run["url"]).partition("/#/")
    if not page:
        raise ValueError(
            "the API of CML hands out no artifacts; look at"
            f" {SAMPLES_ARTIFACT} of run {run['runId']} in {root}"
        )
    credentials = None
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        # Not for an address out of a status: whoever writes that must not get them.
        root = given
        credentials = Credentials(
            username=os.environ.get("MLFLOW_TRACKING_USERNAME", ""),
            password=os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
            token=os.environ.get("MLFLOW_TRACKING_TOKEN", ""),
        )
    server = RestClient(root, credentials, timeout_seconds=30.0)
    try:
        query = {"path": SAMPLES_ARTIFACT, "run_uuid": run["runId"]}
        text = await server.text("GET", "/get-artifact", query=query, retry=True)
    except TrackingError as error:
        raise ValueError(str(error)) from None
    finally:
        await server.close()
    # Not splitlines: an answer may hold separators that JSON leaves as they are.
    return [
        EvaluatedRow.model_validate_json(line, extra="ignore")
        for line in text.split("\n")
        if line.strip()
    ]
