"""``kubetune validate``: checks manifests without a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from kubetune.api.manifests import ManifestError, read_manifests
from kubetune.decide.memory.automatic import announced


@click.command()
@click.option(
    "-f",
    "--filename",
    "paths",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True, allow_dash=True),
    help="File or folder (with its subfolders), or - for standard input; may be given several"
    " times.",
)
def validate(paths: tuple[Path, ...]) -> None:
    """Check manifests as strictly as the API server, without one.

    Prints FILE:LINE: FIELD: what is wrong and what to do, and exits 1 if anything is. Objects of
    other groups are not looked at.

    \b
    Examples:
      kubetune validate -f job.yaml
      kubectl kustomize overlays/prod | kubetune validate -f -
    """
    # click makes the text "-" a Path; opening that reads a file of this name.
    files = [Path("/dev/stdin") if str(path) == "-" else path for path in paths]
    try:
        manifests = read_manifests(files)
    except ManifestError as error:
        for line in error.lines:
            click.echo(line, err=True)
        raise SystemExit(1) from None
    for manifest in manifests:
        click.echo(f"{manifest.kind.kind} {manifest.name}: valid")
        if manifest.kind.kind == "FineTuneJob":
            for note in announced(manifest.spec.to_json()):
                click.echo(f"  {note}")
    click.echo(f"{len(manifests)} objects are valid")
