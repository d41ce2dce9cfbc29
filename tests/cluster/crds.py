"""The CRDs of a cluster, which a test may delete and make again."""

from kubetune.api import GROUP
from kubetune.api.kinds.table import BY_KIND
from kubetune.clients.kubernetes import KubernetesClient
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.objects import packaged

from tests.cluster.namespace import Namespace
from tests.cluster.support import eventually


def crd_name(kind: str) -> str:
    """The name of a kind's CRD."""
    return f"{BY_KIND[kind].plural}.{GROUP}"


class Crds:
    """The CRDs of a cluster."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._folder = packaged("crds", "crds")

    def delete(self, *kinds: str) -> None:
        """Delete those of some kinds, or all, and wait until they are gone."""
        names = [crd_name(kind) for kind in kinds or BY_KIND]
        self._cluster.kubectl("delete", "crd", "--ignore-not-found", "--timeout=60s", *names)

    def apply(self, *kinds: str) -> None:
        """Make those of some kinds, or all."""
        for kind in kinds or BY_KIND:
            file = str(self._folder / f"{GROUP}_{BY_KIND[kind].plural}.yaml")
            self._cluster.kubectl(
                "apply",
                "--server-side",
                "--force-conflicts",
                "--field-manager=kubetune-local",
                "-f",
                file,
            )

    def served(self, space: Namespace, *kinds: str) -> None:
        """Wait until the API server answers for some kinds, or all."""
        for kind in kinds or BY_KIND:
            path = KubernetesClient.path(kind, None, None)
            eventually(lambda path=path: space.try_request("GET", path)[0] == 200)
