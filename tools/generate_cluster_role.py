"""Renders the operator's rights on our own kinds, from the table of kinds, into its ClusterRole.

What stands after the marker, on the kinds of Kubernetes, is written by hand and stays as it is.
``--check`` compares and writes nothing.
"""

from __future__ import annotations

import sys

from access_rules import INSTALL, bring_up_to_date, rule
from kubetune.api.kinds.table import KINDS

FILE = INSTALL / "cluster-role.yaml"
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
    rules = [rule([kind.plural for kind in KINDS], ("get", "list", "watch"))]
    rules += [rule([f"{kind.plural}/status" for kind in KINDS if kind.status], ("patch",))]
    rules += [rule([kind.plural], kind.verbs, kind.why) for kind in KINDS if kind.verbs]
    return HEAD + "".join(rules) + MARKER + present.partition(MARKER)[2]


def main() -> int:
    """Returns the exit status."""
    return bring_up_to_date(FILE, rendered(FILE.read_text()))


if __name__ == "__main__":
    sys.exit(main())
