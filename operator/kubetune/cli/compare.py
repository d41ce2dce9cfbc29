"""``kubetune compare``: the results of an Evaluation and its stored answers, side by side."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import click

from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import EvaluationStatusDict, MlflowRunDict, status_of
from kubetune.cli.connection import NotThereError, artifact, asked_home_option, choose_cluster


@click.command()
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--rows", "limit", type=click.IntRange(min=0), help="Most rows shown (default: all).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@asked_home_option
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
    try:
        choose_cluster(home)
        body, answers, problems = asyncio.run(_read(namespace, evaluation))
    except NotThereError as error:
        raise click.ClickException(str(error)) from None
    status: EvaluationStatusDict = status_of(body)
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


async def _read(namespace: str, name: str) -> tuple[JsonObject, dict[str, Any], list[str]]:
    """The Evaluation, the stored rows by candidate, and what could not be read."""
    import aiohttp
    import kopf

    from kubetune.clients.kubernetes import ApiError, KubernetesClient

    try:
        client = KubernetesClient.connect()
    except kopf.LoginError as error:
        raise NotThereError(str(error)) from None
    try:
        body = await client.get("Evaluation", namespace, name)
    except ApiError as error:
        raise NotThereError(f"Evaluation {namespace}/{name}: {error}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise NotThereError(f"the cluster can't be reached: {error}") from None
    finally:
        await client.close()
    answers: dict[str, Any] = {}
    problems: list[str] = []
    status: EvaluationStatusDict = status_of(body)
    for candidate in status.get("candidates") or ():
        if candidate.get("samples") and "mlflow" in candidate:
            try:
                answers[candidate["name"]] = await _rows(candidate["mlflow"])
            except (NotThereError, ValueError, KeyError) as error:
                problems.append(f"answers of {candidate['name']} can't be read: {error}")
    return body, answers, problems


async def _rows(run: MlflowRunDict) -> list[Any]:
    """The rows of a run's artifact. Raises NotThereError, ValueError."""
    from kubetune.api.run.evaluation_plan import SAMPLES_ARTIFACT, EvaluatedRow

    text = await artifact(run, SAMPLES_ARTIFACT)
    # Not splitlines: an answer may hold separators that JSON leaves as they are.
    return [
        EvaluatedRow.model_validate_json(line, extra="ignore")
        for line in text.split("\n")
        if line.strip()
    ]
