"""Renders the operator's rights on our own kinds, from the table of kinds, into its ClusterRole.

What stands after the marker, on the kinds of Kubernetes, is written by hand and stays as it is.
``--check`` compares and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from kubetune.api import GROUP
from kubetune.api.kinds.table import KINDS

FILE = Path(__file__).parents[1] / "manifests" / "install" / "cluster-role.yaml"
MARKER = "  # Runs and what they are given.\n"
HEAD = """\
# Each rule is used; tests run the operator with no other rights.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: kubetune
  labels:
    app.kubernetes.io/name: kubetune
rules:
  # Our own kinds: rendered from operator/kubetune/api/kinds/table.py by `make generate`.
"""


def rendered(present: str) -> str:
    """The file's text, with the rules on other kinds that it has at present."""
    rules = [_rule([kind.plural for kind in KINDS], ("get", "list", "watch"))]
    rules += [_rule([f"{kind.plural}/status" for kind in KINDS if kind.status], ("patch",))]
    rules += [_rule([kind.plural], kind.verbs, kind.why) for kind in KINDS if kind.verbs]
    return HEAD + "".join(rules) + MARKER + present.partition(MARKER)[2]


def _rule(resources: Iterable[str], verbs: Iterable[str], why: str = "") -> str:
    named = list(resources)
    listed = "".join(f"\n      - {name}" for name in named) if len(named) > 1 else f" [{named[0]}]"
    comment = f"  # {why}\n" if why else ""
    return (
        f"{comment}  - apiGroups: [{GROUP}]\n    resources:{listed}\n"
        f"    verbs: [{', '.join(verbs)}]\n"
    )


def main() -> int:
    """Returns the exit status."""
    present = FILE.read_text()
    wanted = rendered(present)
    if wanted == present:
        return 0
    if "--check" in sys.argv:
        print(f"out of date: {FILE.name}; run `make generate`", file=sys.stderr)
        return 1
    FILE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
