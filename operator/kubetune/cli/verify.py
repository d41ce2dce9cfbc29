"""``kubetune verify``: whether a registered version is still what it was registered as."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubetune.cli.connection import NotThereError, asked_home_option, choose_cluster

if TYPE_CHECKING:
    from kubetune.cli.verifying.findings import Finding

CHANGED = 1
UNKNOWN = 3
"""Exit codes; click has 2 for a command that can't be understood."""
_MARKS = {"ok": "ok      ", "changed": "CHANGED ", "unknown": "unknown "}


@click.command()
@click.option(
    "--tracking-uri", help="MLflow server (default: $MLFLOW_TRACKING_URI, else the job's)."
)
@click.option(
    "--cml-url", help="CML workspace that has the version, in place of MLflow ($CDSW_APIV2_KEY)."
)
@click.option("--cml-project", help="Name or id of the project there (default: the job's).")
@click.option(
    "--cml-ca",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with certificates (PEM) of the workspace's authority.",
)
@click.option("--operator-namespace", default="kubetune-system", show_default=True)
@click.option(
    "--keys",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with the operator's public keys (PEM), instead of those in the cluster.",
)
@click.option("--files/--no-files", default=True, help="Read all files and compare their digests.")
@click.option("--job", "is_job", is_flag=True, help="TARGET is a job though its name is a number.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@asked_home_option
@click.argument("target")
def verify(
    tracking_uri: str | None,
    cml_url: str | None,
    cml_project: str | None,
    cml_ca: Path | None,
    operator_namespace: str,
    keys: Path | None,
    files: bool,
    is_job: bool,
    output: str,
    home: Path | None,
    target: str,
) -> None:
    """Check a registered version against what it was made of.

    TARGET is a FineTuneJob, as namespace/job, or a registered version, as name/version. The
    operator signs a statement when it registers a version: what was compared with it, and what has
    changed since, is printed line by line.

    \b
      signature   the statement is the operator's, by its public keys in the cluster
      version     name, number, source and run, owner, metrics and lineage as the registry has them
      files       each file of the model, read from MLflow (--no-files leaves that out)
      sources     digest of the Dataset and its split, revision of the Model, settings of the job

    MLflow is asked with the credentials of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or
    of MLFLOW_TRACKING_TOKEN where its address is given, else without any; a CML workspace with the
    API key in CDSW_APIV2_KEY. CML hands out no artifacts, so files are not compared there.

    \b
    Exit codes: 0 all as it was; 1 something has changed; 3 something could not be compared.

    \b
    Examples:
      kubetune verify team/tune
      kubetune verify support-router/3 --tracking-uri https://mlflow.example.com
      kubetune verify team/tune --no-files -o json
      kubetune verify team/tune --cml-url https://ml.example.com --no-files
    """
    from kubetune.api.bounded import NOTE, file_text
    from kubetune.cli.verifying.checking import Request, Workspace, check

    named = re.fullmatch(r"([^/]+)/([^/]+)", target)
    if named is None:
        raise click.UsageError(f"{target} is neither namespace/job nor name/version")
    workspace = None
    if cml_url is not None:
        api_key = os.environ.get("CDSW_APIV2_KEY")
        if not api_key:
            raise click.UsageError("--cml-url needs an API key of the workspace in $CDSW_APIV2_KEY")
        ca_pem = file_text(cml_ca, NOTE) if cml_ca else None
        workspace = Workspace(cml_url, cml_project, api_key, ca_pem)
    elif cml_project or cml_ca:
        raise click.UsageError("--cml-project and --cml-ca need --cml-url")
    version = int(named[2]) if named[2].isdecimal() and not is_job else None
    request = Request(
        first=named[1],
        second=named[2],
        version=version,
        tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"),
        workspace=workspace,
        operator_namespace=operator_namespace,
        keys=keys,
        files=files,
    )
    try:
        choose_cluster(home)
        title, findings = asyncio.run(check(request))
    except NotThereError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(UNKNOWN)
    _print(title, findings, output)
    states = {finding.state for finding in findings}
    sys.exit(CHANGED if "changed" in states else UNKNOWN if "unknown" in states else 0)


def _print(title: str, findings: list[Finding], output: str) -> None:
    if output == "json":
        document = {"version": title, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(title)
    for finding in findings:
        click.echo(f"  {_MARKS[finding.state]} {finding.what}: {finding.said}")
