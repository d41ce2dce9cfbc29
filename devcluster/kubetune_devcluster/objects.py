"""Objects that ``kubetune up`` puts into the cluster: the CRDs and the local defaults."""

import string
from collections.abc import Callable, Mapping
from pathlib import Path

import kubetune
from kubetune.api import GROUP
from kubetune.api.kinds.table import KINDS

from kubetune_devcluster.errors import LocalClusterError

MANIFESTS = Path(__file__).parent / "manifests"
PROCESS_NODE = Path(__file__).parent / "node" / "manifests"
APPLY = ("apply", "--server-side", "--force-conflicts", "--field-manager=kubetune-local")


def packaged(name: str, checkout: str) -> Path:
    """A folder or file that ships with kubetune: in an installed package, else in a checkout."""
    package = Path(kubetune.__file__).parent
    for path in (package / name, package.parents[1] / checkout):
        if path.exists():
            return path
    raise LocalClusterError(f"this installation of kubetune lacks {checkout}")


def filled(folder: Path, values: Mapping[str, str]) -> str:
    """The manifests in a folder in name order, with ``${NAME}`` filled from ``values``."""
    texts = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            texts.append(string.Template(file.read_text()).substitute(values))
        except KeyError as missing:
            raise LocalClusterError(f"{file} uses {missing}, which is not known here") from None
    return "\n---\n".join(texts)


def install(kubectl: Callable[..., str], manifests: str) -> None:
    """Apply the CRDs, wait until the API server serves them, then apply the local defaults."""
    names = [f"{kind.plural}.{GROUP}" for kind in KINDS]
    kubectl(*APPLY, "-k", str(packaged("crds", "crds")))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *names)
    # The operator has the rights of an installed one here, and no more.
    kubectl(*APPLY, "-f", str(packaged("cluster-role.yaml", "manifests/install/cluster-role.yaml")))
    kubectl(*APPLY, "-f", "-", input=manifests)
    # In the namespace that is among them.
    kubectl(*APPLY, "-f", str(packaged("keys-role.yaml", "manifests/install/keys-role.yaml")))
    kubectl(*APPLY, "-f", str(packaged("lease-role.yaml", "manifests/install/lease-role.yaml")))
