"""Renders what people may do with our kinds, from the table of kinds, into three ClusterRoles.

Whoever has view, edit or admin in a namespace has them too. ``--check`` compares and writes
nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from access_rules import INSTALL, bring_up_to_date, rule
from kubetune.api.kinds.table import KINDS, Kind

FILE = INSTALL / "people-roles.yaml"
HEAD = """\
# What people may do with our kinds; rendered from operator/kubetune/api/kinds/table.py by
# `make generate`. Whoever has view, edit or admin in a namespace has the rights below there.
# Objects of cluster-wide kinds count only where a role is bound by a ClusterRoleBinding.
"""
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True)
class Role:
    """A ClusterRole, and the one of Kubernetes that it adds to."""

    name: str
    adds_to: str
    why: str
    written: tuple[Kind, ...]


ROLES = (
    Role("kubetune-view", "view", "Sees everything.", ()),
    Role(
        "kubetune-user",
        "edit",
        "Trains and evaluates, on targets that an admin has made.",
        tuple(kind for kind in KINDS if not kind.for_admins),
    ),
    Role("kubetune-admin", "admin", "Says where runs go, and with which credentials.", KINDS),
)


def rendered() -> str:
    """The file's text."""
    return HEAD + "---\n".join(_role(role) for role in ROLES)


def _role(role: Role) -> str:
    head = f"""\
# {role.why}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {role.name}
  labels:
    app.kubernetes.io/name: kubetune
    rbac.authorization.k8s.io/aggregate-to-{role.adds_to}: "true"
rules:
"""
    rules = [(KINDS, READ), (role.written, WRITE)]
    return head + "".join(
        rule([kind.plural for kind in kinds], verbs) for kinds, verbs in rules if kinds
    )


def main() -> int:
    """Returns the exit status."""
    return bring_up_to_date(FILE, rendered())


if __name__ == "__main__":
    sys.exit(main())
