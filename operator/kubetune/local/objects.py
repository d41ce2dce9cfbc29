"""Objects that ``kubetune up`` puts into the cluster: the CRDs and the local defaults."""

import string
from collections.abc import Callable, Mapping
from pathlib import Path

import kubetune
from kubetune.local.errors import LocalClusterError

MANIFESTS = Path(__file__).parent / "manifests"


def crds() -> Path | None:
    """The folder with the rendered CRDs: in an installed package, else in a checkout."""
    package = Path(kubetune.__file__).parent
    for folder in (package / "crds", package.parents[1] / "crds"):
        if any(folder.glob("*.yaml")):
            return folder
    return None


def local_defaults(values: Mapping[str, str]) -> str:
    """The manifests of the local cluster in name order, with ``${NAME}`` filled from ``values``."""
    texts = []
    for file in sorted(MANIFESTS.glob("*.yaml")):
        try:
            texts.append(string.Template(file.read_text()).substitute(values))
        except KeyError as missing:
            raise LocalClusterError(f"{file} uses {missing}, which is not known here") from None
    return "\n---\n".join(texts)


def install(kubectl: Callable[..., str], values: Mapping[str, str]) -> None:
    """Apply the CRDs, wait until the API server serves them, then apply the local defaults."""
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=kubetune-local")
    if folder := crds():
        kubectl(*apply, "-f", str(folder))
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(folder))
    if manifests := local_defaults(values):
        kubectl(*apply, "-f", "-", input=manifests)
